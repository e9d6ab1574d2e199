// SPDX-License-Identifier: Apache-2.0
// What is about to be asked for. The URL, the request and the command line are all written from it.

const MOST_SEED = 2 ** 31 - 1;
export const MOST_COUNT = 16;
const START = { mode: 'words', prompt: '', negative: '', recipe: 'toybox', seed: null, count: 1, lane: 'normal' };
const MODES = { words: 'toybox', picture: 'image', mesh: 'texture' };

export class Draft extends EventTarget {
  constructor() {
    super();
    Object.assign(this, START, { settings: {} });
  }

  /** Changes values and tells everybody once. */
  put(values) {
    const changed = Object.keys(values).filter((key) => JSON.stringify(this[key]) !== JSON.stringify(values[key]));
    if (!changed.length) return;
    Object.assign(this, values);
    this.dispatchEvent(new CustomEvent('change', { detail: changed }));
  }

  /** Another kind of origin brings the recipe that follows it; settings of one recipe mean nothing to another. */
  setMode(mode) {
    if (mode !== this.mode) this.put({ mode, recipe: MODES[mode], settings: {} });
  }

  override(path, value) {
    const settings = { ...this.settings };
    if (value === undefined) delete settings[path];
    else settings[path] = value;
    this.put({ settings });
  }

  /** Another rule, scene or guidance: what was set of the one before means nothing to it. */
  choosePart(path, kind) {
    const settings = Object.fromEntries(Object.entries(this.settings).filter(([name]) => name !== path && !name.startsWith(`${path}.`)));
    if (kind !== undefined) settings[path] = kind;
    this.put({ settings });
  }

  /** The body of POST /v1/jobs; `files` are ids of uploads. Without a seed one is drawn, so that it is on record. */
  body(files = {}) {
    const words = { prompt: this.prompt.trim(), recipe: this.recipe, seed: this.seed ?? drawn() };
    const body = { kind: this.mode === 'mesh' ? 'texture' : 'dream', ...words, ...files };
    if (this.negative.trim()) body.negative = this.negative.trim();
    if (this.count > 1) body.count = this.count;
    if (Object.keys(this.settings).length) body.settings = this.settings;
    if (this.lane !== 'normal') body.lane = this.lane;
    return body;
  }

  /** What of it stands in the URL: all but files. */
  place() {
    const place = { tab: 'create' };
    for (const key of Object.keys(START)) if (this[key] !== START[key]) place[key] = this[key];
    if (Object.keys(this.settings).length) place.settings = JSON.stringify(this.settings);
    return place;
  }

  /** Values of a URL; what is missing is as at the start, what is nonsense is left out. */
  static read(route) {
    const values = { ...START, settings: {} };
    for (const key of ['prompt', 'negative', 'recipe']) if (route[key]) values[key] = route[key];
    if (route.mode in MODES) {
      values.mode = route.mode;
      values.recipe = route.recipe || MODES[route.mode];
    }
    if (/^\d{1,10}$/.test(route.seed ?? '') && Number(route.seed) <= MOST_SEED) values.seed = Number(route.seed);
    if (/^\d{1,2}$/.test(route.count ?? '')) values.count = Math.min(Math.max(Number(route.count), 1), MOST_COUNT);
    if (route.lane === 'background') values.lane = route.lane;
    try {
      const settings = JSON.parse(route.settings ?? '{}');
      if (settings && typeof settings === 'object' && !Array.isArray(settings)) values.settings = settings;
    } catch {
      // a broken link keeps the rest of what it says
    }
    return values;
  }
}

export function drawn() {
  return crypto.getRandomValues(new Uint32Array(1))[0] % MOST_SEED;
}

/** The same by the command line, for a POSIX shell; a run of several is a line each. */
export function command(draft, file = '') {
  const words = [];
  for (const [path, value] of Object.entries(draft.settings)) words.push(`${path}=${spoken(value)}`);
  const options = draft.negative.trim() ? ['--negative', draft.negative.trim()] : [];
  const first = draft.seed ?? drawn();
  const lines = Array.from({ length: draft.count }, (_, i) => {
    const made = draft.mode === 'mesh' ? ['texture', file || 'MESH.glb', draft.prompt.trim()] : ['dream', draft.prompt.trim()];
    const picture = draft.mode === 'picture' ? ['--image', file || 'PICTURE.png'] : [];
    return ['dreamlab', ...made, '--recipe', draft.recipe, ...picture, ...options, '--seed', String(first + i), ...words].map(quoted).join(' ');
  });
  return lines.join('\n');
}

function spoken(value) {
  if (Array.isArray(value)) return value.join(',');
  return value !== null && typeof value === 'object' ? JSON.stringify(value) : String(value);
}

function quoted(word) {
  return /^[\w./=:,+-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
