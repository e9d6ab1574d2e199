// SPDX-License-Identifier: Apache-2.0
// What several panels are made of.

import { button, empty, fill, go, h, icon, line, toast } from '../ui.js';
import { stateName } from './words.js';

/** Children of `box` for `items`, one element per key: what stays keeps its element, its focus and its pictures. */
export function keyed(box, items, { key, make, show = () => {} }) {
  const before = new Map([...box.children].map((child) => [child.dataset.key, child]));
  const wanted = items.map((item, place) => {
    const name = String(key(item));
    const element = before.get(name) ?? make(item);
    element.dataset.key = name;
    before.delete(name);
    show(element, item, place);
    return element;
  });
  for (const gone of before.values()) gone.remove();
  wanted.forEach((element, place) => {
    if (box.children[place] !== element) box.insertBefore(element, box.children[place] ?? null);
  });
}

/** The text of an element, touched only when it differs: a screen reader is not told what it has heard. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A dot and the word for where a job stands. */
export function pill(name = '') {
  const element = h('span.dl-state', {}, h('i'), h('span'));
  element.show = (state) => {
    element.dataset.state = state;
    say(element.lastChild, stateName(state));
  };
  element.show(name);
  return element;
}

/**
 * A picture of one side: previews are four sides in a row, posters one. `.look(url)`, `.turn(k)` for another side;
 * `.sides` is known once it has loaded.
 */
export function side(alt = '') {
  const image = h('img.dlp-side', { alt, loading: 'lazy', decoding: 'async', draggable: 'false' });
  Object.assign(image, { sides: 1, view: 0 });
  image.addEventListener('load', () => {
    const ratio = image.naturalWidth / image.naturalHeight;
    image.sides = ratio > 1.5 ? Math.round(ratio) : 1;
    image.turn(image.view);
    image.parentElement?.classList.add('is-loaded');
  });
  image.addEventListener('error', () => image.classList.add('is-broken'));
  image.look = (url) => {
    if (image.getAttribute('src') === url) return;
    image.classList.remove('is-broken');
    if (url) image.src = url;
    else image.removeAttribute('src');
  };
  image.turn = (view) => {
    image.view = view;
    const share = image.sides > 1 ? (view % image.sides) / (image.sides - 1) : 0.5;
    image.style.objectPosition = `${share * 100}% 50%`;
  };
  return image;
}

/** Four sides of one preview in a square, or the picture as it is. */
export function sheet() {
  const box = h('div.dlp-sheet');
  let shown = null;
  box.look = (url, words = '') => {
    if (shown === url) return;
    shown = url;
    if (!url) {
      box.replaceChildren();
      return;
    }
    const probe = new Image();
    probe.onload = () => {
      if (shown !== url) return; // another one was asked for meanwhile
      const sides =
        probe.naturalWidth / probe.naturalHeight > 1.5 ? Math.round(probe.naturalWidth / probe.naturalHeight) : 1;
      box.dataset.sides = String(sides);
      const views = Array.from({ length: sides }, (_, k) => {
        const image = h('img', { src: url, alt: k === 0 ? words : '', draggable: 'false' });
        if (sides > 1) image.style.objectPosition = `${(k / (sides - 1)) * 100}% 50%`;
        return image;
      });
      box.replaceChildren(...views);
    };
    probe.src = url;
  };
  return box;
}

/** Does what a button is for: the button is off meanwhile, a failure is said. Resolves to the answer, or null. */
export async function act(button, work, done = null) {
  if (button) button.disabled = true;
  try {
    const answer = await work();
    if (done) toast(done, { kind: 'good', seconds: 3 });
    return answer ?? true;
  } catch (error) {
    toast(line(error), { kind: 'bad', seconds: 8 });
    return null;
  } finally {
    if (button) button.disabled = false;
  }
}

/** What stands where nothing was made yet, with the way to a first one. */
export function unmade(name, title, text) {
  const create = button('Create', { icon: 'create', kind: 'primary', onclick: () => go({ tab: 'create' }) });
  return empty({ icon: name, title, text, action: create });
}

/** Hands text over as a file. */
export function save(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Figures with their names: facts([['step', '40 / 150'], ...]) with `.show(pairs)`. */
export function facts(pairs = []) {
  const list = h('dl.dlp-facts');
  list.show = (now) => {
    if (list.children.length !== now.length) {
      fill(
        list,
        now.map(([name]) => h('div', {}, h('dt', {}, name), h('dd'))),
      );
    }
    now.forEach(([name, value], i) => {
      say(list.children[i].firstChild, name);
      say(list.children[i].lastChild, String(value));
    });
  };
  list.show(pairs);
  return list;
}

/** A line for what a poll fails of; that the studio is away is said by the page's head. */
export function failing() {
  const line = h('p.dl-notice.bad', { role: 'status', hidden: true }, icon('warn'), h('span'));
  line.report = (error) => {
    line.hidden = !error || error.status === 0;
    say(line.lastChild, error ? `${error.message} What you see is the last that was said.` : '');
  };
  return line;
}
