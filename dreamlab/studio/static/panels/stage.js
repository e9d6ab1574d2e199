// SPDX-License-Identifier: Apache-2.0
// The large view: the live model under a camera that stays, or the newest pictures where there is none.

import { button, h, icon, segmented } from '../ui.js';
import { say, sheet } from './parts.js';

/** What of a job can be looked at in three dimensions: [{id, label, url, kind}], the best last. */
function models(job) {
  const found = [];
  if (job.live)
    found.push({
      id: 'live',
      label: job.state === 'running' ? 'Live' : 'As it formed',
      url: job.live.url,
      kind: job.live.kind,
      step: job.live.step,
    });
  const named = (test) => (job.artifacts ?? []).find(test);
  const splats = named((one) => one.kind === 'splat-glb') ?? named((one) => one.kind === 'splat-ply');
  const mesh = named(
    (one) => one.kind === 'glb' && !/lod[1-9]/i.test(one.name) && /^(export|painted)\/[^/]+$/.test(one.name),
  );
  if (splats) found.push({ id: 'splat', label: 'Splats', url: splats.url, kind: 'splat' });
  if (mesh) found.push({ id: 'mesh', label: 'Mesh', url: mesh.url, kind: 'mesh' });
  return found;
}

/** One Viewer for a whole panel; none where the bundle or WebGL is missing, and then pictures have to do. */
async function makeViewer(place) {
  const { Viewer } = await import('/static/viewer.js');
  return new Viewer(place);
}

export class Stage {
  #viewer = null;
  #making = null;
  #loaded = '';
  #wanted = '';
  #chosen = null;
  #moment = null;
  #job = null;

  constructor({ choose = () => {}, ready = () => {} } = {}) {
    Object.assign(this, { choose, ready });
    this.canvas = h('div.dlp-canvas', { hidden: true });
    this.pictures = sheet();
    this.note = h('p.dlp-stage-note', { role: 'status' });
    this.kinds = h('div.dlp-kinds');
    this.wire = button('', {
      icon: 'wire',
      kind: 'quiet',
      title: 'Wireframe',
      'aria-pressed': 'false',
      onclick: () => this.#wire(),
    });
    this.frame = button('', {
      icon: 'expand',
      kind: 'quiet',
      title: 'Fit the view',
      onclick: () => this.#viewer?.frame(),
    });
    this.slider = h('input', {
      type: 'range',
      min: 0,
      max: 1,
      step: 0.001,
      value: 0,
      'aria-label': 'Time in the animation',
    });
    this.slider.addEventListener('input', () => this.#viewer?.time(Number(this.slider.value)));
    this.player = button('', {
      icon: 'play',
      kind: 'quiet',
      title: 'Play',
      onclick: () => this.#viewer?.play(!this.#viewer.playing),
    });
    this.canvas.addEventListener('view-time', ({ detail }) => {
      this.slider.value = String(detail.time);
    });
    this.canvas.addEventListener('view-state', () => this.#player());
    this.time = h('div.dlp-time', { hidden: true }, this.player, this.slider);
    this.tools = h('div.dlp-tools', {}, this.kinds, h('span.dlp-gap'), this.wire, this.frame);
    this.element = h('div.dlp-stage', {}, this.canvas, this.pictures, this.note, this.tools, this.time);
  }

  get viewer() {
    return this.#viewer;
  }

  /** The job as it stands now; `moment` is a preview that is looked back at, or null. */
  show(job, moment = null, newest = null) {
    const another = this.#job?.id !== job.id;
    this.#job = job;
    this.#moment = moment;
    if (another) this.#forget();
    const all = models(job);
    this.#choices(all, Boolean(newest ?? job.preview));
    const picked = this.#pick(all);
    const flat = Boolean(moment) || !picked;
    this.element.dataset.view = flat ? 'pictures' : picked.kind;
    if (flat) {
      const url = moment?.url ?? newest?.url ?? job.preview;
      this.pictures.look(url, `${job.prompt}${moment ? ` at step ${moment.step}` : ''}, four sides`);
      this.#flat(true);
      say(this.note, url ? '' : this.#nothing(job));
    } else this.#load(picked);
  }

  dispose() {
    this.#viewer?.dispose();
    this.#viewer = null;
    this.#making = null;
    this.#loaded = '';
    this.canvas.replaceChildren();
  }

  #nothing(job) {
    if (job.state === 'queued') return 'It has not begun. The first picture comes with the first steps.';
    if (job.state === 'running') return 'Starting. The first picture is on its way.';
    return 'No picture was made.';
  }

  #forget() {
    this.#chosen = null;
    this.#loaded = '';
    this.#wanted = '';
    this.pictures.look(null);
    this.#time(0);
  }

  #pick(all) {
    if (this.#chosen === 'pictures' || this.broken) return null;
    return (
      all.find((one) => one.id === this.#chosen) ??
      all.find((one) => one.id === 'live' && this.#job.state === 'running') ??
      all.at(-1) ??
      null
    );
  }

  #choices(all, pictures) {
    const offered = [...all.map((one) => [one.id, one.kind === 'animation' ? 'Motion' : one.label])];
    if (pictures) offered.push(['pictures', 'Pictures']);
    const now = this.#moment ? 'pictures' : (this.#pick(all)?.id ?? 'pictures');
    const key = offered.map(([id]) => id).join();
    if (this.kinds.dataset.key === key) {
      if (this.kinds.firstChild) this.kinds.firstChild.value = now;
      return;
    }
    this.kinds.dataset.key = key;
    this.kinds.replaceChildren();
    if (offered.length < 2) return;
    this.kinds.append(
      segmented('What is shown', offered, now, (id) => {
        this.#chosen = id;
        this.choose(id);
        this.show(this.#job, null);
      }),
    );
  }

  #flat(on) {
    this.canvas.hidden = on;
    this.pictures.hidden = !on;
    this.wire.hidden = on;
    this.frame.hidden = on;
    if (on) this.time.hidden = true;
    else this.time.hidden = !(this.#viewer?.duration > 0);
  }

  async #load({ url, kind }) {
    if (this.#wanted === url) {
      if (this.#loaded === url) this.#flat(false);
      return;
    }
    this.#wanted = url;
    if (!this.#loaded) {
      this.pictures.look(this.#job.preview, this.#job.prompt);
      this.#flat(true);
      say(this.note, 'Loading the model');
    }
    try {
      if (!this.#making) {
        this.canvas.hidden = false; // a viewer measures the place it is put in
        this.#making = makeViewer(this.canvas);
      }
      const viewer = await this.#making;
      if (this.#viewer !== viewer) {
        this.#viewer = viewer;
        this.ready(viewer);
      }
      viewer.label(this.#job.prompt);
      await viewer.load(url, { keepCamera: this.#loaded !== '', kind });
      if (this.#wanted !== url) return; // a later one overtook it
      this.#loaded = url;
      this.#time(viewer.duration ?? 0);
      if (!this.#moment && this.#chosen !== 'pictures') this.#flat(false);
      say(this.note, '');
    } catch (error) {
      this.#fail(url, error);
    }
  }

  /** A live file may be gone before it was read (only the newest two are kept): the next one comes soon. */
  #fail(url, error) {
    if (this.#wanted === url) this.#wanted = '';
    if (this.#loaded) return;
    if (!this.#viewer) this.broken = true;
    this.element.dataset.trouble = error.message;
    say(this.note, this.broken ? 'No 3D view in this browser: pictures instead.' : '');
    this.#flat(true);
  }

  #wire() {
    const on = this.wire.getAttribute('aria-pressed') !== 'true';
    this.wire.setAttribute('aria-pressed', String(on));
    this.#viewer?.wire(on);
  }

  #time(duration) {
    this.time.hidden = !(duration > 0);
    this.slider.max = String(duration || 1);
    this.slider.step = String((duration || 1) / 200);
    this.#player();
  }

  #player() {
    const on = Boolean(this.#viewer?.playing);
    if (this.player.dataset.on === String(on)) return;
    this.player.dataset.on = String(on);
    this.player.setAttribute('aria-label', on ? 'Pause' : 'Play');
    this.player.replaceChildren(icon(on ? 'pause' : 'play'));
  }
}
