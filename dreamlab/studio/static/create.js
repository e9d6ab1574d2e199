// SPDX-License-Identifier: Apache-2.0
// <dl-create>: words, a picture or a mesh; a recipe; one button. Everything but files stands in the URL.
import { api, button, chip, copy, duration, field, fill, freshKey, go, h, href, icon, onKey, Panel, plain, query, segmented, set, toast, trouble } from '/static/ui.js';
import { command, Draft, drawn, MOST_COUNT } from './create/draft.js';
import { Mesh } from './create/mesh.js';
import { Picture } from './create/picture.js';
import { Presets, qualityOf, setQuality, yaml } from './create/presets.js';
import { Settings } from './create/settings.js';
import { Stage } from './create/stage.js';
import { Words } from './create/words.js';

const EXAMPLE = 'a red mushroom with a white stem';
const UNSAID = 'the object in the picture'; // what the recipe itself says
const NARROW = matchMedia('(max-width: 720px)');

class Create extends Panel {
  static tab = 'create';

  show(route) {
    if (!this.draft) this.build();
    if (href(route) !== this.wrote) this.begin(route);
    this.track(onKey('mod+enter', () => this.submit(), { within: document }));
    this.stage.load().then((any) => this.first(!any));
  }

  /** A form filled from the URL; one that holds a draft is left alone by a bare visit to the tab. */
  begin(route) {
    const bare = Object.keys(route).length === 1;
    if (!bare || this.wrote === undefined) this.draft.put(Draft.read(route));
    if (route.from) this.refill(route);
    if (bare && this.wrote !== undefined) go(this.draft.place(), { replace: true });
    this.wrote = href(this.draft.place());
  }

  /** "Use these settings": what the link does not say is asked of the job. */
  async refill(route) {
    try {
      const { settings } = await api('GET', `/v1/jobs/${encodeURIComponent(route.from)}`);
      if (settings && !route.settings) this.draft.put({ settings });
    } catch {
      return; // words, recipe and seed came with the link
    }
  }

  build() {
    this.draft = new Draft();
    this.settings = new Settings(this.draft);
    this.words = new Words(this.draft);
    this.presets = new Presets(this.draft);
    this.picture = new Picture(this.draft, this.settings);
    this.mesh = new Mesh();
    this.stage = new Stage();
    this.modes = segmented('From', [['words', 'Words', 'text'], ['picture', 'Picture', 'image'], ['mesh', 'Mesh', 'cube']], 'words', (mode) => this.draft.setMode(mode));
    this.side = h('aside.side', { 'aria-label': 'Shown' });
    this.given = h('div.given');
    NARROW.addEventListener('change', () => this.beside());
    this.notice = h('div', { 'aria-live': 'assertive' });
    fill(this, h('div.dl-create', {}, this.formOf(), this.side));
    this.draft.addEventListener('change', ({ detail }) => this.changed(detail));
    this.draft.addEventListener('form', () => this.changed(['recipe', 'settings']));
    this.draft.addEventListener('read', () => fill(this.notice));
    this.load();
    this.settings.load();
    this.changed(['mode', 'recipe', 'seed', 'count', 'settings']);
  }

  formOf() {
    const title = h('h1.dl-sr.rest', {}, 'Create');
    this.submitButton = button('Dream', { kind: 'primary large', onclick: () => this.submit() });
    this.time = h('span.time', { role: 'status' });
    this.more = button('Recipes, pictures, meshes and settings', { icon: 'settings', kind: 'quiet', class: 'more', onclick: () => {
      this.opened = true;
      this.first(false);
    } });
    const hello = h('header.hello', {}, h('h1', {}, 'Say what it is. Watch it form.'), h('p.dl-dim', {}, 'Words or a picture become a solid 3D object, step by step, on this machine alone.'));
    const act = h('div.act', {}, this.submitButton, h('span.beside', {}, this.time, h('span.dl-kbd.dl-hide-narrow', {}, `${navigator.platform.startsWith('Mac') ? '⌘' : 'Ctrl'} ↵`)));
    return h('form.form', { novalidate: true, 'aria-label': 'What to make', onsubmit: (event) => event.preventDefault() },
      title, hello, h('div.rest', {}, this.modes), this.given, this.words.element,
      h('div.rest.dl-stack', {}, this.presets.element, this.choices(), this.details()),
      this.notice, act, this.more);
  }

  choices() {
    this.quality = segmented('Quality', [['draft', 'Draft'], ['balanced', 'Balanced'], ['best', 'Best']], 'balanced', (name) => setQuality(this.draft, this.settings.form, name));
    this.seeds = segmented('Seed', [['random', 'Random', 'dice'], ['fixed', 'Fixed']], 'random', (kind) => this.draft.put({ seed: kind === 'fixed' ? drawn() : null }));
    this.seed = h('input.dl-input', { type: 'number', min: 0, max: 2 ** 31 - 1, step: 1, 'aria-label': 'Seed', onchange: () => {
      if (this.seed.validity.valid && this.seed.value !== '') this.draft.put({ seed: Number(this.seed.value) });
    } });
    this.number = h('input.dl-input', { type: 'number', min: 1, max: MOST_COUNT, step: 1, onchange: () => this.draft.put({ count: Math.min(Math.max(Math.round(Number(this.number.value)) || 1, 1), MOST_COUNT) }) });
    const group = (label, ...what) => h('div.dl-field', {}, h('span.dl-label', {}, label), h('div.dl-row.still', {}, what));
    return h('div.choices', {}, group('Quality', this.quality), group('Seed', this.seeds, this.seed), field('Count', this.number));
  }

  details() {
    this.changes = h('span.dl-chip.on', { hidden: true });
    this.yaml = h('div');
    this.lane = h('input', { type: 'checkbox', onchange: () => this.draft.put({ lane: this.lane.checked ? 'background' : 'normal' }) });
    const copyIt = button('Copy as command', { icon: 'copy', small: true, onclick: () => copy(command(this.draft, this.origin?.name), 'Command copied') });
    return [
      h('details', {}, h('summary', {}, 'Settings', this.changes), this.settings.element),
      h('details', {}, h('summary', {}, 'Recipe as YAML'), this.yaml),
      h('div.dl-row.between', {}, h('label.dl-check', {}, this.lane, 'In the background, after everything else'), copyIt),
    ];
  }

  async load() {
    try {
      await this.presets.load();
      this.changed(['recipe']);
    } catch (error) {
      fill(this.presets.element, trouble(error, { retry: () => this.load() }));
    }
  }

  /** A first visit shows the example and one button; the rest is one press away. */
  first(on) {
    const bare = on && !this.opened && this.draft.mode === 'words' && this.draft.recipe === 'toybox';
    this.classList.toggle('first', bare);
    if (bare && !this.draft.prompt) this.draft.put({ prompt: EXAMPLE });
    this.beside();
  }

  get origin() {
    return { picture: this.picture, mesh: this.mesh }[this.draft.mode] ?? null;
  }

  beside() {
    const shown = (this.origin ?? this.stage).element;
    const place = this.origin && NARROW.matches ? this.given : this.side; // what is given comes before what is said of it
    if (shown.parentNode === place) return;
    fill(this.side);
    fill(this.given);
    place.append(shown);
  }

  changed(detail) {
    const { draft } = this;
    this.modes.value = draft.mode;
    this.quality.value = qualityOf(draft, this.settings.form);
    this.seeds.value = draft.seed === null ? 'random' : 'fixed';
    set(this.seed, { hidden: draft.seed === null, value: draft.seed ?? '' });
    if (document.activeElement !== this.number) this.number.value = draft.count;
    this.lane.checked = draft.lane === 'background';
    const count = Object.keys(draft.settings).length;
    set(this.changes, { hidden: count === 0 });
    fill(this.changes, `${count} changed`);
    fill(this.submitButton, draft.mode === 'mesh' ? 'Paint' : 'Dream', draft.count > 1 ? ` ${draft.count}` : '');
    if (['mode', 'recipe', 'settings'].some((key) => detail.includes(key))) {
      fill(this.yaml, yaml(this.presets.current, draft.settings));
      this.beside();
    }
    if (['prompt', 'recipe', 'settings', 'count'].some((key) => detail.includes(key))) this.estimate();
    fill(this.notice);
    clearTimeout(this.writing);
    this.writing = setTimeout(() => this.write(), 300);
  }

  /** The draft into the URL, so that a reload or a link brings it back. */
  write() {
    if (!this.shown) return;
    const place = this.draft.place();
    this.wrote = href(place);
    go(place, { replace: true });
  }

  estimate() {
    clearTimeout(this.asking);
    this.asking = setTimeout(async () => {
      const { recipe, settings, count, mode } = this.draft;
      const prompt = mode === 'words' && this.draft.prompt.trim().length > 1 ? this.draft.prompt : '';
      try {
        const { seconds, measured, from } = await api('GET', `/v1/estimate${query({ recipe, settings: told(settings), prompt })}`);
        if (recipe !== this.draft.recipe || (prompt && prompt !== this.draft.prompt)) return;
        fill(this.time, `≈ ${duration(seconds * count)}`, h('small', {}, measured ? 'measured on this machine' : 'not measured yet'));
        set(this.time, { title: from ?? null });
      } catch {
        fill(this.time);
      }
    }, 150);
  }

  async submit() {
    if (this.sending) return;
    const { origin, draft } = this;
    this.words.complain('');
    fill(this.notice);
    if (!draft.prompt.trim() && draft.mode !== 'picture') {
      this.words.complain(draft.mode === 'mesh' ? 'Say what it shall look like.' : 'Say what to make, or let it surprise you.');
      this.words.box.focus();
      return;
    }
    if (origin?.lacks) {
      fill(this.notice, trouble({ message: origin.lacks }));
      return;
    }
    this.sending = true;
    set(this.submitButton, { disabled: true, 'aria-busy': 'true' });
    this.key ??= freshKey();
    try {
      const body = draft.body(origin ? await origin.files() : {});
      body.prompt ||= UNSAID; // the reader's words count then
      const made = await api('POST', '/v1/jobs', body, { key: this.key });
      this.sent(made);
    } catch (error) {
      this.refused(error);
    }
    if (this.unsure) delete this.unsure;
    else this.key = null;
    this.sending = false;
    set(this.submitButton, { disabled: false, 'aria-busy': null });
  }

  sent(made) {
    const job = made.jobs?.[0] ?? made;
    if (made.jobs) toast(`${made.jobs.length} are on their way.`, { kind: 'good', action: { label: 'See them', onclick: () => go({ tab: 'queue', batch: made.batch }) } });
    go({ tab: 'watch', job: job.id });
  }

  /** Words that no guidance knows can be left out, where the recipe has a setting for it. */
  unheard(said) {
    const skips = this.settings.form.filter(({ path, choices }) => path.endsWith('.guidance.unknown') && choices?.includes('skip'));
    const unknown = /does not know/.test(said) && skips.length > 0;
    const way = unknown && chip('Go on without them', { onclick: () => {
      this.draft.put({ settings: { ...this.draft.settings, ...Object.fromEntries(skips.map(({ path }) => [path, 'skip'])) } });
      this.submit();
    } });
    this.words.complain(unknown ? `${said.split(';')[0]}. ` : plain(said), way);
  }

  /** Errors beside what they are of; the same key again when it is unknown whether the request arrived. */
  refused(error) {
    const loose = [];
    const settings = {};
    for (const each of error.fields ?? []) {
      const where = Array.isArray(each.loc) ? each.loc.join('.') : String(each.loc);
      const path = where.replace(/^(body\.)?settings\./, '');
      if (/(^|\.)prompt$/.test(where)) this.unheard(each.msg);
      else if (this.settings.form.some((row) => row.path === path)) settings[path] = plain(each.msg);
      else loose.push(`${where}: ${plain(each.msg)}`);
    }
    this.settings.complain(settings);
    if (Object.keys(settings).length) this.querySelector('details').open = true;
    const placed = (error.fields?.length ?? 0) > 0 && !loose.length;
    if (!placed) fill(this.notice, trouble(loose.length ? { message: error.message, hint: loose.join('; ') } : error, { retry: error.status === 0 ? () => this.submit() : null }));
    if (error.status === 0) this.unsure = true;
    else if (placed) (this.words.error.textContent ? this.words.box : this.querySelector('.setting .dl-error:not(:empty)'))?.scrollIntoView({ block: 'center' });
  }
}

/** What counts for the time, as the estimate reads it. */
function told(settings) {
  return Object.entries(settings).filter(([, value]) => typeof value !== 'object').map(([path, value]) => `${path}=${value}`).join(',');
}

customElements.define('dl-create', Create);
