// SPDX-License-Identifier: Apache-2.0
// One run in the gallery: a large poster that turns while it is looked at, and what can be done with it.

import { ago, button, duration, h, href, icon } from '../ui.js';
import { again, favourite, remove, reuse } from './actions.js';
import { pill, say, side } from './parts.js';

const STILL = matchMedia('(prefers-reduced-motion: reduce)');
const REST_MS = 140; // before it turns: a pointer that only passes sets nothing off
const TURN_MS = 380;

/** The finished turntable beside a poster, if the run has one. */
const film = (run) =>
  run.turntable ??
  (run.poster?.match(/\/poster\.png(\?|$)/) ? run.poster.replace('poster.png', 'turntable.mp4') : null);

/** Turns the picture of a tile: by the film of the run, or else by the sides that its preview holds. */
class Turning {
  #timer = 0;
  #film = null;

  constructor(place, picture) {
    Object.assign(this, { place, picture });
  }

  start(run) {
    if (STILL.matches) return;
    this.stop();
    this.#timer = setTimeout(() => (film(run) ? this.#roll(film(run)) : this.#sides()), REST_MS);
  }

  stop() {
    clearTimeout(this.#timer);
    this.picture.turn(0);
    this.#film?.remove();
    this.#film = null;
  }

  #roll(url) {
    const video = h('video.dlg-film', { src: url, loop: true, muted: true, playsinline: true, 'aria-hidden': 'true' });
    this.#film = video;
    video.addEventListener('playing', () => video.classList.add('is-on'));
    video.addEventListener('error', () => {
      if (this.#film !== video) return;
      video.remove();
      this.#film = null;
      this.#sides();
    });
    this.place.append(video);
    video.play().catch(() => {}); // left before it began
  }

  #sides() {
    this.picture.turn(this.picture.view + 1);
    if (this.picture.sides > 1) this.#timer = setTimeout(() => this.#sides(), TURN_MS);
  }
}

/** A tile; `tools`: done(), gone(run), back(run), pick(run, on), picked(id). */
export function tile(run, tools) {
  let now = run;
  const picture = side('');
  const link = h('a.dlg-poster', { href: href({ tab: 'watch', job: run.id }) }, picture, icon('image', 28));
  const mark = pill();
  const check = h('input', { type: 'checkbox', 'aria-label': `Choose “${run.prompt}” to compare` });
  const star = button('', {
    icon: 'star',
    kind: 'quiet dlg-star',
    small: true,
    title: 'Favourite',
    onclick: async (event) => {
      await favourite(now, !now.favourite, event.currentTarget, () =>
        element.show({ ...now, favourite: !now.favourite }),
      );
    },
  });
  const words = h('a.dlg-prompt', { href: link.getAttribute('href') });
  const about = h('span.dlp-dim');
  const throwAway = (event) =>
    remove(
      now,
      event?.currentTarget ?? null,
      () => tools.gone(now),
      () => tools.back(now),
    );
  const acts = h(
    'div.dlg-acts',
    {},
    h(
      'a.dl-btn.quiet.small.bare',
      { href: reuse(run), title: 'Use these settings', 'aria-label': 'Use these settings' },
      icon('settings'),
    ),
    run.job !== false &&
      !run.parent &&
      button('', {
        icon: 'dice',
        kind: 'quiet',
        small: true,
        title: 'Again with a new seed',
        onclick: (event) => again(now, event.currentTarget),
      }),
    button('', { icon: 'trash', kind: 'quiet', small: true, title: 'Delete', onclick: throwAway }),
  );
  const seen = [link, h('label.dlg-pick', {}, check, h('span', {}, icon('check', 12))), star, mark];
  const face = h('div.dlg-face', {}, seen);
  const line = h('div.dlg-line', {}, about, acts);
  const element = h('div.dlg-tile', { role: 'listitem' }, face, h('div.dlg-words', {}, words, line));
  const turning = new Turning(link, picture);
  element.addEventListener('pointerenter', (event) => event.pointerType === 'mouse' && turning.start(now));
  element.addEventListener('pointerleave', () => turning.stop());
  link.addEventListener('focus', () => link.matches(':focus-visible') && turning.start(now));
  link.addEventListener('blur', () => turning.stop());
  link.addEventListener('keydown', (event) => event.key === 'Delete' && throwAway());
  check.addEventListener('change', () => tools.pick(now, check.checked));
  /** Far from the screen a tile is its place and its words: a browser looks after thousands of pictures at every frame. */
  element.awake = (on) => {
    if (on === Boolean(face.firstChild)) return;
    if (!on) turning.stop();
    face.replaceChildren(...(on ? seen : []));
    line.replaceChildren(...(on ? [about, acts] : []));
  };
  element.check = () => {
    check.checked = tools.picked(now.id);
    element.classList.toggle('is-picked', check.checked);
  };
  element.show = (fresh) => {
    now = fresh;
    picture.look(fresh.poster);
    element.classList.toggle('is-bare', !fresh.poster);
    say(words, fresh.prompt);
    link.setAttribute('aria-label', fresh.prompt);
    link.title = fresh.prompt;
    mark.show(fresh.state);
    mark.hidden = fresh.state === 'succeeded';
    star.setAttribute('aria-pressed', String(Boolean(fresh.favourite)));
    element.check();
    const took = Number.isFinite(fresh.seconds) ? duration(fresh.seconds) : '';
    say(about, [fresh.recipe, `seed ${fresh.seed}`, took].filter(Boolean).join(' · '));
    about.title = ago(fresh.created);
  };
  element.show(run);
  return element;
}
