// SPDX-License-Identifier: Apache-2.0
// What the lab asks: one prompt, and what varies of it.

import { api, button, field, fill, freshKey, h, icon, line, plain, segmented } from '../ui.js';
import { complain } from './actions.js';
import { batchOf } from './batch.js';

const RULES = [
  'sds',
  'csd',
  'ism',
  'sdi',
  'nfsd',
  'vsd',
  'sjc',
  'hifa',
  'tsm',
  'cds',
  'asd',
  'bridge',
  'rfds',
  'mvdream',
  'balanced',
  'cfd',
  'dsd',
  'csm',
  'bootstrapped',
];
const SCENES = [
  ['gaussians', 'Gaussians'],
  ['field', 'Field'],
  ['dmtet', 'Surface'],
];
const SEEDS = [0, 1, 2, 3, 4, 5, 6, 7];
export const MOST = 9; // side by side; more cannot be seen at once

export class Form {
  #vary = 'rules';
  #chosen = { rules: ['sds', 'csd', 'ism'], scenes: ['gaussians', 'field'], seeds: ['0', '1', '2'] };
  #rules = RULES.map((name) => ({ name, about: '' }));

  /** `begun(batch)` is told the id of a batch that was submitted. */
  constructor(begun) {
    this.begun = begun;
    this.prompt = h('input.dl-input', {
      type: 'text',
      maxlength: 1000,
      value: 'a red mushroom with a white stem',
      required: true,
    });
    this.steps = h('input.dl-input', { type: 'number', min: 1, max: 100_000, value: 100, required: true });
    this.seed = h('input.dl-input', { type: 'number', min: 0, max: 2 ** 31 - 1, value: 0, required: true });
    this.asked = {
      prompt: field('Prompt', this.prompt),
      steps: field('Steps', this.steps),
      seed: field('Seed', this.seed),
    };
    this.vary = segmented(
      'What varies',
      [
        ['rules', 'Rules'],
        ['scenes', 'Scenes'],
        ['seeds', 'Seeds'],
      ],
      this.#vary,
      (value) => {
        this.#vary = value;
        this.#chips();
      },
    );
    this.chips = h('div.dll-chips', { role: 'group', 'aria-label': 'Which ones' });
    this.trouble = h('p.dl-error', { role: 'alert' });
    this.run = button('Run side by side', { icon: 'play', kind: 'primary', type: 'submit' });
    this.element = h(
      'form.dll-form',
      { onsubmit: (event) => this.#submit(event) },
      h('div.dll-asked', {}, Object.values(this.asked)),
      h('div.dll-vary', {}, this.vary, this.chips, this.run),
      this.trouble,
    );
    this.#chips();
    this.#learn();
  }

  /** Holds what a batch that is looked at was asked, as far as it could have been asked here. */
  follow(asked) {
    const { vary, chosen } = asked;
    const known = { rules: RULES, scenes: SCENES.map(([name]) => name), seeds: SEEDS.map(String) }[vary];
    if (!chosen.every((one) => known.includes(one))) return;
    this.#vary = this.vary.value = vary;
    this.#chosen[vary] = chosen;
    this.prompt.value = asked.prompt;
    if (asked.steps !== null) this.steps.value = asked.steps;
    if (vary !== 'seeds') this.seed.value = asked.seed ?? 0;
    this.#chips();
  }

  /** Which of the rules this studio has, with a word on each. */
  async #learn() {
    const told = await api('GET', '/v1/recipes').catch(() => null);
    const known = new Map((told?.recipes ?? []).map((one) => [one.name, one.line]));
    if (known.size === 0) return;
    this.#rules = RULES.filter((name) => known.has(name)).map((name) => ({ name, about: known.get(name) }));
    if (this.#vary === 'rules') this.#chips();
  }

  #chips() {
    const options = {
      rules: this.#rules.map(({ name, about }) => [name, name, about]),
      scenes: SCENES.map(([name, label]) => [name, label, '']),
      seeds: SEEDS.map((seed) => [String(seed), String(seed), '']),
    }[this.#vary];
    const chosen = this.#chosen[this.#vary];
    this.asked.seed.hidden = this.#vary === 'seeds';
    const make = ([value, label, about]) => {
      const input = h('input', { type: 'checkbox', value, checked: chosen.includes(value) });
      input.addEventListener('change', () => this.#choose(input));
      return h('label.dll-chip', { title: about || null }, input, h('span', {}, icon('check', 12), label));
    };
    fill(this.chips, options.map(make));
    this.#choose(null);
  }

  #choose(input) {
    const ticked = [...this.chips.querySelectorAll('input:checked')].map((one) => one.value);
    this.#chosen[this.#vary] = ticked;
    const full = ticked.length > MOST;
    if (full && input) {
      input.checked = false;
      this.#chosen[this.#vary] = ticked.filter((value) => value !== input.value);
    }
    this.trouble.textContent = full ? `At most ${MOST} side by side.` : '';
    this.run.disabled = this.#chosen[this.#vary].length === 0;
  }

  async #submit(event) {
    event.preventDefault();
    this.trouble.textContent = '';
    Object.values(this.asked).forEach((one) => one.complain(''));
    this.run.disabled = true;
    const asked = {
      vary: this.#vary,
      chosen: this.#chosen[this.#vary],
      prompt: this.prompt.value.trim(),
      steps: this.steps.valueAsNumber,
      seed: this.seed.valueAsNumber,
    };
    try {
      const made = await api('POST', '/v1/batches', batchOf(asked), { key: freshKey() });
      this.begun(made.batch ?? made.jobs[0].batch);
    } catch (error) {
      if (!complain(error, this.asked)) {
        const lines = (error.fields ?? []).map(({ loc, msg }) => `${loc}: ${plain(msg)}`);
        this.trouble.textContent = lines.join('; ') || line(error);
      }
    } finally {
      this.run.disabled = false;
    }
  }
}
