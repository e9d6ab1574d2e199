// SPDX-License-Identifier: Apache-2.0
// Every setting of a recipe as a form: searched by name or meaning, what was changed is marked and can be put back.
import { api, button, count, fill, h, query, set, skeleton, trouble } from '/static/ui.js';

const MOST_SHOWN = 400;
const PART = /\.(scene|system|guidance)$/; // what has settings of its own
const MOST_SAID = 1e6; // a bound beyond is there for the machine

export class Settings {
  constructor(draft) {
    this.draft = draft;
    this.form = [];
    this.search = h('input.dl-input', { type: 'search', placeholder: 'Search settings', 'aria-label': 'Search settings', oninput: () => this.draw() });
    this.only = h('input', { type: 'checkbox', onchange: () => this.draw() });
    this.list = h('div.dl-settings', { tabindex: -1 });
    this.element = h('div.dl-stack', {}, h('div.dl-row.still', {}, h('div.dl-grow', {}, this.search), h('label.dl-check.dl-small', {}, this.only, 'Changed only')), this.list);
    this.errors = {};
    draft.addEventListener('change', ({ detail }) => {
      if (detail.includes('recipe')) this.load();
      else if (detail.includes('settings') && this.parts() !== this.partsShown) this.load(true);
      else if (detail.includes('settings')) this.mark();
    });
  }

  /** Rules, scenes and guidances that were chosen instead of the recipe's: their settings are the form's. */
  parts() {
    return Object.entries(this.draft.settings).filter(([path, value]) => PART.test(path) && typeof value === 'string').map(([path, kind]) => `${path}=${kind}`).join(',');
  }

  /** `kept`: only a part is another; what stands there stays until its settings have come. */
  async load(kept = false) {
    const { recipe } = this.draft;
    const parts = this.parts();
    if (!kept) fill(this.list, skeleton(6));
    try {
      const { settings } = await api('GET', `/v1/settings${query({ recipe, parts })}`);
      if (recipe !== this.draft.recipe || parts !== this.parts()) return;
      Object.assign(this, { form: settings, partsShown: parts });
      const focus = this.list.contains(document.activeElement) ? document.activeElement.id : '';
      this.draw();
      if (focus) document.getElementById(focus)?.focus();
    } catch (error) {
      if (kept && error.fields?.length) {
        this.partsShown = parts;
        this.complain(Object.fromEntries(error.fields.map(({ loc, msg }) => [loc.replace(/^settings\./, ''), msg])));
        return;
      }
      this.form = [];
      fill(this.list, trouble(error, { retry: () => this.load() }));
    }
    this.draft.dispatchEvent(new CustomEvent('form'));
  }

  /** Errors of a refused request by the path of their setting. */
  complain(errors) {
    this.errors = errors;
    this.draw();
  }

  draw() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.form.filter((row) => {
      const text = `${row.path} ${label(row.path)} ${row.help ?? ''}`.toLowerCase();
      return words.every((word) => text.includes(word)) && (!this.only.checked || row.path in this.draft.settings);
    });
    const groups = new Map();
    for (const row of found.slice(0, MOST_SHOWN)) {
      const name = group(row.path);
      groups.set(name, [...(groups.get(name) ?? []), row]);
    }
    this.rows = new Map();
    const parts = [...groups].sort(([, a], [, b]) => rank(a[0].path) - rank(b[0].path)).map(([name, rows]) => h('section', {}, h('h3', {}, name), rows.map((row) => this.row(row))));
    const nothing = this.only.checked ? 'Nothing is changed.' : 'No setting has these words.';
    fill(this.list, parts, !parts.length && h('p.dl-dim.dl-none', {}, nothing));
    this.mark();
  }

  row(row) {
    const id = `dl-set-${row.path.replaceAll('.', '-')}`;
    const reset = button('', { icon: 'undo', kind: 'quiet', small: true, title: `Put ${label(row.path)} back to ${shown(row.default)}`, onclick: () => {
      if (PART.test(row.path)) this.draft.choosePart(row.path, undefined);
      else this.draft.override(row.path, undefined);
      this.draw();
    } });
    const error = h('p.dl-error', { role: 'alert' }, this.errors[row.path]);
    const control = this.control(row, id, (text) => fill(error, text));
    const element = h('div.setting', { dataset: { path: row.path } },
      h('label', { for: id }, h('span', {}, label(row.path)), h('small', {}, row.help || about(row))), control, reset, error);
    this.rows.set(row.path, { element, reset });
    return element;
  }

  control(row, id, complain) {
    const value = this.draft.settings[row.path] ?? row.default;
    const say = (next) => {
      const same = JSON.stringify(next) === JSON.stringify(row.default);
      complain('');
      delete this.errors[row.path];
      if (PART.test(row.path)) this.draft.choosePart(row.path, same ? undefined : next);
      else this.draft.override(row.path, same ? undefined : next);
    };
    if (row.type === 'bool') return h('input.dl-switch', { id, type: 'checkbox', checked: value === true, onchange: (event) => say(event.target.checked) });
    if (row.type === 'str' && row.choices?.length) {
      const options = row.choices.map((choice) => h('option', { value: choice, selected: choice === value }, choice));
      return h('select.dl-input', { id, onchange: (event) => say(event.target.value) }, options);
    }
    const input = h('input.dl-input', { id, value: shown(value), inputmode: ['int', 'float'].includes(row.type) ? 'decimal' : 'text' });
    input.addEventListener('change', () => {
      const read = parsed(row, input.value.trim());
      if (read.wrong) complain(read.wrong);
      else say(read.value);
      set(input, { 'aria-invalid': read.wrong ? 'true' : null });
    });
    return input;
  }

  mark() {
    for (const [path, { element, reset }] of this.rows ?? []) {
      const changed = path in this.draft.settings;
      element.classList.toggle('changed', changed);
      reset.style.visibility = changed ? '' : 'hidden';
    }
  }
}

/** `stages.0.terms.1.system.cfg` -> 'Stage 1, term 2: rule'. */
function group(path) {
  const parts = path.split('.').slice(0, -1);
  const words = [];
  for (let i = 0; i < parts.length; i += 1) {
    if (parts[i] === 'stages') words.push(`Stage ${Number(parts[(i += 1)]) + 1}`);
    else if (parts[i] === 'terms') words.push(`term ${Number(parts[(i += 1)]) + 1}`);
    else words.push(parts[i] === 'system' ? 'rule' : parts[i].replaceAll('_', ' '));
  }
  const name = words.join(' · ') || 'Run';
  return name[0].toUpperCase() + name.slice(1);
}

/** Stages in their order, and of each its own settings before those of its parts. */
function rank(path) {
  const parts = path.split('.');
  return parts[0] === 'stages' ? 100 * Number(parts[1]) + parts.length : 10_000;
}

function label(path) {
  return path.split('.').at(-1).replaceAll('_', ' ');
}

function about({ type, low, high }) {
  const open = high === null || high === undefined || high >= MOST_SAID;
  if (low !== null && low !== undefined) return open ? `at least ${count(low)}` : `${count(low)} to ${count(high)}`;
  return { int: 'whole number', float: 'number', schedule: 'number, or from → to' }[type] ?? '';
}

export function shown(value) {
  if (value === null || value === undefined) return '';
  if (Array.isArray(value)) return value.map(shown).join(', ');
  if (typeof value === 'object') return 'from' in value && 'to' in value ? `${value.from} → ${value.to}${value.curve && value.curve !== 'linear' ? ` ${value.curve}` : ''}` : JSON.stringify(value);
  return String(value);
}

/** What was typed as JSON, {value}, or what is wrong with it, {wrong}. */
export function parsed(row, text) {
  if (text === '' && row.default === null) return { value: null };
  if (row.type === 'int' || row.type === 'float') {
    const value = Number(text);
    if (text === '' || !Number.isFinite(value)) return { wrong: 'a number' };
    if (row.type === 'int' && !Number.isInteger(value)) return { wrong: 'a whole number' };
    if (row.low !== null && row.low !== undefined && value < row.low) return { wrong: `at least ${row.low}` };
    if (row.high !== null && row.high !== undefined && value > row.high) return { wrong: `at most ${row.high}` };
    return { value };
  }
  if (row.type === 'list') {
    const parts = text.split(',').map((part) => part.trim()).filter(Boolean);
    const odd = row.choices?.length ? parts.find((part) => !row.choices.includes(part)) : undefined;
    if (odd) return { wrong: `“${odd}” is none of ${row.choices.join(', ')}` };
    const numbers = parts.every((part) => part !== '' && Number.isFinite(Number(part)));
    return { value: numbers && parts.length ? parts.map(Number) : parts };
  }
  if (row.type === 'schedule') return schedule(row, text);
  return { value: text };
}

function schedule(row, text) {
  if (text !== '' && Number.isFinite(Number(text))) return { value: Number(text) };
  const pair = text.match(/^(\S+)\s*(?:→|->|to)\s*(\S+?)(?:\s+(\w+))?$/);
  if (!pair) return { wrong: 'a number, or “from → to”' };
  const [from, to] = [Number(pair[1]), Number(pair[2])];
  if (!Number.isFinite(from) || !Number.isFinite(to)) return { wrong: 'a number, or “from → to”' };
  const kept = row.default && typeof row.default === 'object' ? row.default : {};
  return { value: { ...kept, from, to, ...(pair[3] ? { curve: pair[3] } : {}) } };
}
