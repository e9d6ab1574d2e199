// SPDX-License-Identifier: Apache-2.0
// A place to drop, paste or choose one file. `take(file)` is told.
import { button, fill, h, icon, set } from '/static/ui.js';

export function drop({ glyph, title, text, accept, label, take }) {
  const input = h('input.dl-sr', { type: 'file', accept, 'aria-label': label, tabindex: -1, onchange: () => {
    if (input.files[0]) take(input.files[0]);
    input.value = '';
  } });
  const choose = button(label, { icon: 'upload', onclick: () => input.click() });
  const element = h('div.dl-drop', {}, icon(glyph, 28), h('h3', {}, title), h('p', {}, text), choose, input);
  const over = (on) => (event) => {
    if (![...(event.dataTransfer?.types ?? [])].includes('Files')) return;
    event.preventDefault();
    element.classList.toggle('over', on);
  };
  element.addEventListener('dragenter', over(true));
  element.addEventListener('dragover', over(true));
  element.addEventListener('dragleave', over(false));
  element.addEventListener('drop', (event) => {
    over(false)(event);
    const file = event.dataTransfer?.files[0];
    if (file) take(file);
  });
  element.busy = (what) => {
    set(choose, { disabled: Boolean(what) });
    fill(choose, what ? what : [icon('upload'), label]);
  };
  return element;
}
