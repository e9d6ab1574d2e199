// SPDX-License-Identifier: Apache-2.0
// What the embedded prior imagines of the words, from four sides, while they are typed: a guess before the run.
import { h, query, set } from '/static/ui.js';

const PAUSE = 700; // ms after the last answer on the words

export class Imagined {
  constructor(draft) {
    this.draft = draft;
    this.image = h('img', {
      alt: '', width: 512, height: 128,
      onload: () => set(this.element, { hidden: this.image.getAttribute('src') === null }),
      onerror: () => set(this.element, { hidden: true }),
    });
    this.element = h('figure.imagined', { hidden: true }, this.image, h('figcaption.dl-dim.dl-small', {}, 'What the prior imagines, in one call of its network'));
  }

  /** The words as they were understood: of those that are not, nothing is imagined. */
  heard({ words = [] }) {
    clearTimeout(this.timer);
    const { mode, prompt, recipe, seed } = this.draft;
    const whole = mode === 'words' && recipe.startsWith('toybox') && words.length > 0 && words.every((word) => word.known);
    if (!whole) {
      this.image.removeAttribute('src');
      set(this.element, { hidden: true });
      return;
    }
    const src = `/v1/imagined${query({ prompt: prompt.trim(), seed: seed ?? 0 })}`;
    if (src === this.image.getAttribute('src')) return;
    this.timer = setTimeout(() => set(this.image, { src, alt: `What the prior imagines of “${prompt.trim()}”: four sides` }), PAUSE);
  }
}
