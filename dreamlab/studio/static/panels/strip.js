// SPDX-License-Identifier: Apache-2.0
// The previews in a row as they arrive; one of them may be looked back at.

import { h } from '../ui.js';
import { keyed, side } from './parts.js';

export class Strip {
  #previews = [];
  #step = null;

  /** `choose(step)` is told of a moment, or null: now. */
  constructor(choose) {
    this.choose = choose;
    this.row = h('div.dlp-strip-row', { role: 'radiogroup', 'aria-label': 'Moments of this run' });
    this.now = h('button.dlp-strip-now', { type: 'button', onclick: () => this.choose(null) }, 'Now');
    this.element = h('div.dlp-strip', { hidden: true }, this.row, this.now);
    this.row.addEventListener('keydown', (event) => this.#key(event));
  }

  show(previews, step) {
    const grew = previews.length > this.#previews.length;
    const atEnd = this.row.scrollLeft + this.row.clientWidth > this.row.scrollWidth - 40;
    this.#previews = previews;
    this.#step = step;
    this.element.hidden = previews.length === 0;
    keyed(this.row, previews, {
      key: (one) => one.step,
      make: (one) => this.#make(one),
      show: (element, one) => {
        const on = one.step === step;
        element.setAttribute('aria-checked', String(on));
        element.tabIndex = on || (step === null && one === previews.at(-1)) ? 0 : -1;
        element.firstChild.look(one.url);
      },
    });
    this.now.setAttribute('aria-pressed', String(step === null));
    if (grew && atEnd && step === null) this.row.scrollLeft = this.row.scrollWidth;
  }

  #make(one) {
    const image = side('');
    const label = `Step ${one.step}`;
    return h(
      'button.dlp-frame',
      { type: 'button', role: 'radio', 'aria-label': label, onclick: () => this.choose(one.step) },
      image,
      h('span', {}, String(one.step)),
    );
  }

  #key(event) {
    const steps = this.#previews.map((one) => one.step);
    const at = this.#step === null ? steps.length - 1 : steps.indexOf(this.#step);
    const to = { ArrowLeft: at - (this.#step === null ? 0 : 1), ArrowRight: at + 1, Home: 0, End: steps.length }[
      event.key
    ];
    if (to === undefined) return;
    event.preventDefault();
    const step = to >= steps.length ? null : steps[Math.max(0, to)];
    this.choose(step);
    const focused = step === null ? this.row.lastElementChild : this.row.querySelector(`[data-key="${step}"]`);
    focused?.focus();
    focused?.scrollIntoView({ block: 'nearest', inline: 'center' });
  }
}
