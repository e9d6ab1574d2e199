// SPDX-License-Identifier: Apache-2.0
// What lies over the page: toasts, dialogs, the clipboard.
import { button, fill, h } from './dom.js';
import { icon } from '../icons.js';

/** A line at the foot for some seconds; `action: {label, onclick}` (undo). kind: '', 'good', 'bad'. */
export function toast(text, { kind = '', action = null, seconds = 5 } = {}) {
  const place = document.querySelector('.dl-toasts') ?? document.body.appendChild(h('div.dl-toasts', { role: 'status', 'aria-live': 'polite' }));
  const line = h('div.dl-toast', { class: kind }, kind && icon(kind === 'bad' ? 'warn' : 'check'), h('span', {}, text));
  const end = () => line.remove();
  if (action) {
    line.append(button(action.label, { small: true, kind: 'quiet', onclick: () => {
      end();
      action.onclick();
    } }));
  }
  line.append(button('', { icon: 'close', small: true, kind: 'quiet', title: 'Dismiss', onclick: end }));
  place.append(line);
  if (seconds) setTimeout(end, (action ? 2 : 1) * seconds * 1000);
  return end;
}

/**
 * A dialog over the page: dialog({title, body: node, actions: [button(...)], wide, side}) -> {element, close}.
 * Escape and the backdrop close it; the browser keeps the focus inside and gives it back. onclose() is told.
 */
export function dialog({ title, body, actions = [], wide = false, onclose = () => {} }) {
  const element = h('dialog.dl-dialog', { 'aria-label': title, class: wide ? 'wide' : '' });
  const close = () => element.close();
  fill(element,
    h('header', {}, h('h2', {}, title), button('', { icon: 'close', kind: 'quiet', title: 'Close', onclick: close })),
    h('div.body', {}, body),
    actions.length ? h('footer', {}, actions) : null);
  element.addEventListener('click', (event) => event.target === element && close());
  element.addEventListener('close', () => {
    element.remove();
    onclose();
  });
  document.body.append(element);
  element.showModal();
  return { element, close };
}

/** A question with two answers; resolves to true or false. */
export function confirm(title, text, { yes = 'Continue', danger = false } = {}) {
  return new Promise((resolve) => {
    let answer = false;
    const say = button(yes, { kind: danger ? 'danger' : 'primary', onclick: () => {
      answer = true;
      box.close();
    } });
    const box = dialog({
      title,
      body: h('p', {}, text),
      actions: [button('Cancel', { onclick: () => box.close() }), say],
      onclose: () => resolve(answer),
    });
    say.focus();
  });
}

/** Copies text and says so. */
export async function copy(text, what = 'Copied') {
  try {
    await navigator.clipboard.writeText(text);
    toast(what, { kind: 'good', seconds: 2 });
  } catch {
    dialog({ title: 'Copy this', body: h('textarea.dl-input.mono', { rows: 6, readonly: true, value: text }) });
  }
}
