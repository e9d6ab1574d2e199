// SPDX-License-Identifier: Apache-2.0
// The prompt: a large box whose unknown words are underlined as they are typed, and the nearest known ones as chips.
import { api, button, chip, fill, h, line, query, set } from '/static/ui.js';
import { Imagined } from './imagined.js';

const MOST = 1000; // characters
const PAUSE = 180; // ms after the last key

export class Words {
  constructor(draft) {
    this.draft = draft;
    this.read = { words: [], tokens: null, limit: null };
    this.mirror = h('div.mirror', { 'aria-hidden': 'true' });
    this.box = h('textarea', {
      id: 'dl-prompt', rows: 2, maxlength: MOST, spellcheck: 'false', autocomplete: 'off',
      'aria-label': 'Prompt: what to make', 'aria-describedby': 'dl-prompt-said dl-prompt-error',
      oninput: () => draft.put({ prompt: this.box.value }),
    });
    this.said = h('div.said', { id: 'dl-prompt-said', 'aria-live': 'polite' });
    this.error = h('p.dl-error', { id: 'dl-prompt-error', role: 'alert' });
    this.count = h('span.dl-dim.dl-small.dl-num');
    this.less = h('input.dl-input', {
      id: 'dl-negative', maxlength: MOST, placeholder: 'what it must not look like', 'aria-label': 'Negative prompt',
      oninput: () => draft.put({ negative: this.less.value }),
    });
    this.lessRow = h('div.less', { hidden: true }, h('label.dl-label', { for: 'dl-negative' }, 'Not'), this.less);
    this.open = button('Not like…', { icon: 'minus', kind: 'quiet', small: true, onclick: () => this.showLess(true) });
    this.dice = button('Surprise me', { icon: 'dice', kind: 'quiet', small: true, onclick: () => this.surprise() });
    this.imagined = new Imagined(draft);
    this.element = h('div.dl-prompt', {},
      h('div.text', {}, this.mirror, this.box), this.said, this.imagined.element, this.error, this.lessRow,
      h('div.foot', {}, this.dice, this.open, h('span.dl-grow'), this.count));
    draft.addEventListener('change', ({ detail }) => {
      if (['prompt', 'recipe', 'mode'].some((key) => detail.includes(key))) this.changed();
      if (detail.includes('negative')) this.showLess(Boolean(draft.negative), false);
    });
    this.changed();
  }

  showLess(on, focus = true) {
    set(this.lessRow, { hidden: !on && !this.less.value });
    set(this.open, { hidden: on || Boolean(this.less.value) });
    if (this.less.value !== this.draft.negative) this.less.value = this.draft.negative;
    if (on && focus) this.less.focus();
  }

  /** Another text: what was known of the words it kept is shown at once, the rest is asked. */
  changed() {
    const { draft } = this;
    if (this.box.value !== draft.prompt) this.box.value = draft.prompt;
    const asks = { words: 'What shall it be?', picture: 'What does the picture show? Left empty, it is read from it.', mesh: 'What shall it look like?' };
    set(this.box, { placeholder: asks[draft.mode] });
    set(this.dice, { hidden: draft.mode !== 'words' });
    this.complain('');
    this.draw();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), PAUSE);
  }

  async ask() {
    const { prompt, recipe } = this.draft;
    if (!prompt.trim()) {
      this.read = { words: [], tokens: null, limit: null };
      this.draw();
      this.imagined.heard(this.read);
      return;
    }
    this.asked?.abort();
    this.asked = new AbortController();
    try {
      this.read = await api('GET', `/v1/words${query({ prompt, recipe })}`, undefined, { signal: this.asked.signal });
    } catch {
      return; // typing goes on without it; submitting says what is wrong
    }
    this.draw();
    this.imagined.heard(this.read);
  }

  draw() {
    const text = this.box.value;
    const marks = placed(text, this.read.words);
    const end = heardUntil(text, this.read.unheard);
    fill(this.mirror, marked(text, marks, 0, end), end < text.length && h('span.cut', {}, marked(text, marks, end, text.length)), '\u200b');
    const unknown = new Map(marks.filter(({ word }) => !word.known).map((mark) => [mark.word.text.toLowerCase(), mark]));
    fill(this.said, end < text.length && h('p.dl-small.unheard', {}, 'Not heard: ', h('q', {}, clipped(text.slice(end).trim()))),
      [...unknown.values()].slice(0, 4).map((mark) => this.offer(mark)),
      (this.read.unmade ?? []).map((line) => h('p.dl-small.unmade', {}, line)),
      (this.read.read ?? []).map((line) => h('p.dl-small.dl-dim', {}, line)));
    const { tokens, limit } = this.read;
    const over = limit && tokens > limit;
    fill(this.count, limit && tokens ? `${tokens} / ${limit} tokens` : text.length > MOST - 200 ? `${text.length} / ${MOST}` : '');
    this.count.classList.toggle('over', Boolean(over));
  }

  offer({ word }) {
    const near = (word.suggest ?? []).slice(0, 4);
    const chips = near.map((other) => chip(other, { title: `Replace “${word.text}” by “${other}”`, onclick: () => this.replace(word.text, other) }));
    return h('div.dl-row.tight', {}, h('span.dl-small', {}, h('q', {}, word.text), near.length ? ' is not known. Nearest:' : ' is not known to this recipe.'), chips);
  }

  /** Every place of the word, its plural and capital left to the person. */
  replace(old, other) {
    const whole = new RegExp(`(?<![\\p{L}\\p{N}])${old.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}(?![\\p{L}\\p{N}])`, 'giu');
    this.draft.put({ prompt: this.draft.prompt.replace(whole, () => other) });
    this.box.focus();
  }

  async surprise() {
    set(this.dice, { 'aria-busy': 'true' });
    try {
      const { prompt } = await api('GET', '/v1/surprise');
      this.draft.put({ prompt });
    } catch (error) {
      this.complain(line(error));
    }
    set(this.dice, { 'aria-busy': null });
  }

  complain(text, way = null) {
    fill(this.error, text, way);
    set(this.box, { 'aria-invalid': text ? 'true' : null });
  }
}

/** Where the part begins that no model hears; the text's end where all is heard. */
export function heardUntil(text, unheard) {
  const at = unheard ? text.lastIndexOf(unheard) : -1;
  return at < 0 ? text.length : at;
}

/** So much of a text that it can be recognised: both ends of a long one. */
export function clipped(text, most = 160) {
  return text.length <= most ? text : `${text.slice(0, most - 40).trimEnd()} … ${text.slice(-39).trimStart()}`;
}

/** A stretch of the text with its unknown words marked. */
function marked(text, marks, from, to) {
  const parts = [];
  let at = from;
  for (const { start, end, word } of marks) {
    if (word.known || start < from || end > to) continue;
    parts.push(text.slice(at, start), h('mark', {}, text.slice(start, end)));
    at = end;
  }
  return [...parts, text.slice(at, to)];
}

/** Where each word of the answer stands in the text as it is now; words that are gone are left out. */
export function placed(text, words) {
  const low = text.toLowerCase();
  const marks = [];
  let at = 0;
  for (const word of words) {
    const start = low.indexOf(word.text.toLowerCase(), at);
    if (start < 0) continue;
    at = start + word.text.length;
    marks.push({ start, end: at, word });
  }
  return marks;
}
