// SPDX-License-Identifier: Apache-2.0
// Recipes as cards: what they make, in a picture and a line, and how long that takes on this machine.
import { api, dialog, duration, fill, h, icon, query, set } from '/static/ui.js';

const PRESETS = [
  { recipe: 'toybox', mode: 'words', title: 'Object', line: 'A solid shape, guided from four sides at once', picture: 'object.webp', family: { draft: 'toybox-draft', balanced: 'toybox', best: 'toybox-best' } },
  { recipe: 'video', mode: 'words', title: 'Moving object', line: 'A loop in 3D: “a rocking …”, “a spinning …”', picture: 'moving.webp' },
  { recipe: 'oracle', mode: 'words', title: 'Exact', line: 'What a perfect prior would make: the measure of rules', picture: 'exact.webp' },
  { recipe: 'image', mode: 'picture', title: 'From a picture', line: 'Its front as you gave it, its back from the prior', picture: 'picture.webp' },
  { recipe: 'texture', mode: 'mesh', title: 'Paint', line: 'Colour, roughness and metal; your mesh stays byte for byte', picture: 'paint.webp' },
];
const NEEDS = { words: 'prompt', picture: 'picture', mesh: 'mesh' };
const SCALE = { draft: 1 / 3, balanced: 1, best: 3 };
const STEPS = /^stages\.\d+\.steps$/;

/** The qualities of a recipe: a recipe each, or the same with other steps. */
export function qualityOf(draft, form) {
  const family = familyOf(draft.recipe);
  if (family) return Object.keys(family).find((key) => family[key] === draft.recipe) ?? 'balanced';
  const row = form.find(({ path }) => STEPS.test(path));
  const share = row && draft.settings[row.path] !== undefined ? draft.settings[row.path] / row.default : 1;
  return Object.keys(SCALE).find((key) => Math.abs(SCALE[key] - share) < 0.02) ?? null;
}

export function setQuality(draft, form, quality) {
  const family = familyOf(draft.recipe);
  if (family) {
    draft.put({ recipe: family[quality] });
    return;
  }
  const settings = Object.fromEntries(Object.entries(draft.settings).filter(([path]) => !STEPS.test(path)));
  for (const { path, default: steps } of form.filter((row) => STEPS.test(row.path))) {
    if (quality !== 'balanced') settings[path] = Math.max(1, Math.round(steps * SCALE[quality]));
  }
  draft.put({ settings });
}

function familyOf(recipe) {
  return PRESETS.find(({ family }) => family && Object.values(family).includes(recipe))?.family;
}

export class Presets {
  constructor(draft) {
    this.draft = draft;
    this.recipes = [];
    this.times = new Map();
    this.element = h('div.dl-presets', { role: 'radiogroup', 'aria-label': 'Recipe' });
    draft.addEventListener('change', ({ detail }) => {
      if (detail.includes('mode') || detail.includes('recipe')) this.draw();
    });
    this.draw();
  }

  async load() {
    ({ recipes: this.recipes } = await api('GET', '/v1/recipes'));
    this.draw();
    await Promise.all(PRESETS.map(async ({ recipe }) => {
      try {
        this.times.set(recipe, await api('GET', `/v1/estimate${query({ recipe })}`));
      } catch {
        return; // a card without a time is still a card
      }
      this.draw();
    }));
  }

  get current() {
    return this.recipes.find(({ name }) => name === this.draft.recipe) ?? null;
  }

  draw() {
    const { draft } = this;
    const cards = PRESETS.filter(({ mode }) => mode === draft.mode);
    const chosen = cards.find((card) => card.recipe === draft.recipe || Object.values(card.family ?? {}).includes(draft.recipe));
    const held = this.element.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    fill(this.element, cards.map((card) => this.card(card, card === chosen)), this.rest(chosen));
    if (held) this.element.querySelector(`[data-key="${held}"]`)?.focus();
  }

  card({ recipe, title, line, picture }, on) {
    const time = this.times.get(recipe);
    const about = [h('strong', {}, title), h('span.line', {}, line), h('span.time', {}, time ? `≈ ${duration(time.seconds)}` : '\u00a0')];
    return h('button.dl-card.dl-preset', {
      type: 'button', role: 'radio', 'aria-checked': String(on), dataset: { key: recipe },
      onclick: () => this.draft.put({ recipe, settings: {} }),
    }, h('img', { src: `/static/example/${picture}`, alt: '', width: 112, height: 112 }), h('span.body', {}, about));
  }

  /** The card of all others; it carries the one that is chosen among them. */
  rest(chosen) {
    const own = chosen ? null : this.current;
    const count = this.recipes.filter(({ needs }) => needs === NEEDS[this.draft.mode]).length;
    const text = own ? [h('strong', {}, own.name), h('span.line', {}, own.line)] : [h('strong', {}, 'All recipes'), h('span.line', {}, count > 1 ? `${count} in all: rules of papers, reconstructions` : count ? 'This is the only one that takes it' : '\u00a0')];
    return h('button.dl-card.dl-preset.rest', {
      type: 'button', role: 'radio', 'aria-checked': String(Boolean(own)), 'aria-haspopup': 'dialog', dataset: { key: 'rest' },
      onclick: () => this.choose(),
    }, h('span.glyph', {}, icon('settings', 20)), h('span.body', {}, text, h('span.time', {}, own ? '\u00a0' : 'Choose…')));
  }

  choose() {
    const list = h('div.dl-recipes', { role: 'listbox', 'aria-label': 'Recipes' });
    const search = h('input.dl-input', { type: 'search', placeholder: 'Search by name, rule or paper', 'aria-label': 'Search recipes', oninput: () => show() });
    const fits = this.recipes.filter(({ needs }) => needs === NEEDS[this.draft.mode]);
    const show = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const found = fits.filter((one) => words.every((word) => `${one.name} ${one.line}`.toLowerCase().includes(word)));
      fill(list, found.map((one) => h('button', {
        type: 'button', role: 'option', 'aria-selected': String(one.name === this.draft.recipe),
        onclick: () => {
          this.draft.put({ recipe: one.name, settings: {} });
          box.close();
        },
      }, h('strong', {}, one.name), h('span', {}, one.line))), !found.length && h('p.dl-dim', {}, 'No recipe has these words.'));
    };
    const box = dialog({ title: 'Recipes', body: h('div.dl-stack', {}, search, list), wide: true });
    show();
    search.focus();
  }
}

/** The recipe's text with what was changed below it, marked. */
export function yaml(recipe, settings) {
  const changed = Object.entries(settings);
  const text = recipe?.yaml?.trimEnd() ?? '';
  const lines = changed.map(([path, value]) => h('mark', {}, `${path}=${typeof value === 'string' ? value : JSON.stringify(value)}\n`));
  const pre = h('pre.dl-code', { tabindex: 0, 'aria-label': 'recipe as YAML' }, `${text}\n`, changed.length ? ['\n# changed here\n', lines] : null);
  set(pre, { dataset: { recipe: recipe?.name ?? '' } });
  return pre;
}
