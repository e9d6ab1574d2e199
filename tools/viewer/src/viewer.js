// SPDX-License-Identifier: Apache-2.0
// A 3D view of our files: meshes, Gaussians (KHR_gaussian_splatting), moving ones, in one element. docs/viewer.md

import * as THREE from 'three/webgpu';
import { Ground } from './ground.js';
import { radiance } from './light.js';
import { Notice } from './notice.js';
import { Orbit } from './orbit.js';
import { stage } from './stage.js';
import { Subject } from './subject.js';

export { radiance };

const FOVY = 42; // as our own pictures
const SHARPEST = 2; // device pixels a CSS pixel
const LIGHT = 1.05; // of the environment: a white surface looks white
const LOSSES = 3; // contexts lost in a row before a person has to ask again
const GROUND_MS = 120; // between two shadows of something that moves
const BACKGROUNDS = {
  light: 'radial-gradient(120% 100% at 50% 35%, #f1f3f6 0%, #e4e7ed 55%, #cfd4dd 100%)',
  dark: 'radial-gradient(120% 100% at 50% 35%, #343a46 0%, #20242d 55%, #14171d 100%)',
};

export class Viewer {
  #element; #canvas; #context; #orbit; #notice; #stage = null; #scene = new THREE.Scene(); #ground = new Ground();
  #subject = null; #where = null; #bytes = null; #source = null; #loading = null; #shown = null;
  #time = 0; #playing = false; #ticked = 0; #grounded = 0; #wired = false; #asked = 0; #losses = 0;
  #inView = true; #disposed = false; #peers = new Set(); #watchers = []; #onLost = () => this.#lost();

  // `background`: light, dark, auto (what the page is), none, or a CSS background.
  constructor(element, { background = 'auto', label = '3D view' } = {}) {
    this.#element = element;
    if (getComputedStyle(element).position === 'static') element.style.position = 'relative';
    this.#canvas = document.createElement('canvas');
    this.#canvas.tabIndex = 0;
    this.#canvas.setAttribute('role', 'application');
    this.#canvas.setAttribute('aria-roledescription', '3D view');
    this.label(label);
    Object.assign(this.#canvas.style, { display: 'block', width: '100%', height: '100%', borderRadius: 'inherit' });
    element.append(this.#canvas);
    this.#context = this.#canvas.getContext('2d');
    this.#orbit = new Orbit(this.#canvas, FOVY, () => this.#turned());
    this.#notice = new Notice(element);
    this.#scene.add(this.#ground.object);
    this.#scene.environmentIntensity = LIGHT;
    this.#canvas.addEventListener('keydown', (event) => this.#key(event));
    this.#canvas.addEventListener('dblclick', () => this.frame());
    this.background(background);
    this.#watch();
  }

  // Shows a file; the camera stays if there was one before, unless told. Resolves to what is shown, or to null when a
  // later call overtook this one. A failure is shown, told by `view-state`, and thrown.
  async load(url, { keepCamera = true, kind = null } = {}) {
    this.#source = { url, keepCamera, kind };
    this.#loading?.abort();
    const mine = this.#loading = new AbortController();
    this.#tell('loading', { url });
    if (!this.#subject) this.#notice.waiting('Loading');
    try {
      const answer = await fetch(url, { signal: mine.signal, credentials: 'same-origin' });
      if (!answer.ok) throw new Error(answer.status === 404 ? 'the file is not there' : `the server said ${answer.status}`);
      const bytes = await answer.arrayBuffer();
      if (mine.signal.aborted) return null;
      return await this.#show(bytes, keepCamera, mine.signal);
    } catch (error) {
      if (mine.signal.aborted || this.#disposed) return null;
      this.#failed(error);
      throw error;
    }
  }

  // The whole of it in view, from the front and a little to the side.
  frame() {
    if (this.#where) this.#orbit.about(this.#where);
    this.#orbit.frame();
  }

  // {azimuth, elevation} in degrees, {distance, target} in radii of what is shown; with an argument, sets it. With
  // `exact`, distance is in metres around the origin and `fovy` in degrees, as in our own pictures.
  camera(view) {
    if (view?.exact) this.#orbit.exactly({ fovy: FOVY, ...view });
    else if (view) this.#orbit.set({ ...this.#orbit.get(), ...view });
    return this.#orbit.get();
  }

  get duration() { return this.#subject?.duration ?? 0; }
  get playing() { return this.#playing; }
  get kind() { return this.#subject?.kind ?? null; }

  // Seconds from the clip's start; with an argument, goes there and stays.
  time(seconds) {
    if (seconds === undefined) return this.#time;
    this.play(false);
    this.#at(Math.min(Math.max(seconds, 0), this.duration));
    return this.#time;
  }

  play(on = true) {
    const was = this.#playing;
    this.#playing = Boolean(on) && this.duration > 0;
    this.#ticked = performance.now();
    if (was !== this.#playing) this.#tell(this.#playing ? 'playing' : 'paused');
    if (this.#playing) this.#ask();
  }

  // Two views, and all that either is joined with, turn together from now on; returns how to part them.
  sync(other) {
    const all = new Set([this, other, ...this.#peers, ...other.#peers]);
    for (const one of all) one.#peers = new Set([...all].filter((each) => each !== one));
    other.#follow(this.#orbit.get());
    return () => this.unsync();
  }

  unsync() {
    for (const peer of this.#peers) peer.#peers.delete(this);
    this.#peers.clear();
  }

  // The triangles' edges over the surface.
  wire(on = true) {
    this.#wired = Boolean(on);
    this.#subject?.wire(this.#wired);
    this.#ask();
  }

  background(kind) {
    const { style, dataset } = this.#element;
    dataset.viewBackground = kind;
    style.background = kind === 'none' ? '' : BACKGROUNDS[kind === 'auto' ? pageIs() : kind] ?? kind;
  }

  label(words) {
    this.#canvas.setAttribute('aria-label', `${words}. Arrow keys turn, plus and minus zoom, F frames`);
  }

  // What is drawn now, without the page's background: {width, height, data} of RGBA bytes, row 0 on top.
  pixels() {
    this.#draw();
    const { width, height } = this.#canvas;
    return this.#context.getImageData(0, 0, width, height);
  }

  dispose() {
    this.#disposed = true;
    this.#loading?.abort();
    this.unsync();
    for (const stop of this.#watchers) stop();
    this.#stage?.removeEventListener('lost', this.#onLost);
    this.#orbit.dispose();
    this.#subject?.dispose();
    this.#ground.dispose();
    this.#notice.dispose();
    this.#canvas.remove();
  }

  async #show(bytes, keepCamera, signal) {
    const next = await Subject.read(bytes);
    if (!await this.#staged() || signal?.aborted) {
      next.dispose();
      return null;
    }
    const first = this.#subject === null;
    const moved = this.duration > 0;
    const share = moved ? this.#time / this.duration : 0;
    this.#subject?.root.removeFromParent();
    this.#subject?.dispose();
    this.#subject = next;
    this.#bytes = bytes;
    this.#where = next.bounds();
    this.#scene.environment = next.splats ? null : this.#stage.light;
    this.#scene.add(next.root);
    next.wire(this.#wired);
    this.#at(share * next.duration);
    this.#shade();
    if (first || !keepCamera) this.frame();
    else if (this.#orbit.strange(this.#where)) this.#recentre();
    if (!moved || !next.duration) this.play(next.duration > 0 && !still());
    this.#notice.hide();
    this.#draw();
    this.#losses = 0;
    this.#shown = { kind: next.kind, duration: next.duration, triangles: next.triangles, gaussians: next.gaussians };
    this.#tell('shown', this.#shown);
    return this.#shown;
  }

  // The same view of something of another size, or elsewhere: another height or origin was asked of an export.
  #recentre() {
    const view = this.#orbit.get();
    this.#orbit.about(this.#where);
    this.#orbit.set(view);
  }

  async #staged() {
    if (!this.#stage || this.#stage.lost) {
      this.#stage = await stage();
      this.#stage.addEventListener('lost', this.#onLost, { once: true });
    }
    return !this.#disposed;
  }

  // The picture stays; a new context draws the same file again.
  async #lost() {
    if (this.#disposed || !this.#bytes) return;
    this.#losses += 1;
    this.#tell('lost');
    const again = () => this.#show(this.#bytes, true).catch((error) => this.#failed(error));
    if (this.#losses > LOSSES) this.#notice.failed('The graphics device went away', () => { this.#losses = 0; again(); });
    else setTimeout(again, 100 * this.#losses);
  }

  #failed(error) {
    const why = error instanceof TypeError ? 'the server did not answer' : String(error?.message ?? error).slice(0, 200);
    const again = () => {
      this.#notice.hide();
      this.load(this.#source.url, this.#source).catch(() => {});
    };
    this.#notice.failed(`Cannot show this: ${why}`, again, this.#subject !== null);
    this.#tell('error', { message: why });
  }

  #at(seconds) {
    this.#time = seconds;
    if (!this.#subject?.mixer) return;
    this.#subject.pose(seconds);
    if (performance.now() - this.#grounded > GROUND_MS || !this.#playing) this.#shade();
    this.#element.dispatchEvent(new CustomEvent('view-time', { detail: { time: seconds, duration: this.duration } }));
    this.#ask();
  }

  #shade() {
    this.#grounded = performance.now();
    this.#ground.follow(this.#subject.samples(), this.#where);
  }

  #turned() {
    this.#ask();
    const view = this.#peers?.size ? this.#orbit.get() : null;
    for (const peer of view ? this.#peers : []) peer.#follow(view);
  }

  // As another one looks at it, without telling it back.
  #follow(view) {
    const peers = this.#peers;
    this.#peers = new Set();
    this.#orbit.set(view);
    this.#peers = peers;
  }

  // A picture soon; none while nobody can see it.
  #ask() {
    if (this.#asked || this.#disposed || !this.#inView) return;
    this.#asked = requestAnimationFrame(() => {
      this.#asked = 0;
      this.#tick();
    });
  }

  #tick() {
    if (this.#disposed || !this.#subject) return;
    if (this.#playing) {
      const now = performance.now();
      const seconds = Math.min(now - this.#ticked, 250) / 1000;
      this.#ticked = now;
      this.#at((this.#time + seconds) % this.duration);
    }
    this.#orbit.update();
    this.#draw();
  }

  #draw() {
    if (!this.#subject || !this.#stage || this.#stage.lost) return;
    this.#stage.draw(this.#scene, this.#orbit.camera, this.#subject.splats, this.#context);
    this.#element.dataset.viewDrawn = String(Number(this.#element.dataset.viewDrawn ?? 0) + 1);
  }

  #watch() {
    const sizes = new ResizeObserver(() => this.#resize());
    sizes.observe(this.#element);
    const sight = new IntersectionObserver(([entry]) => {
      this.#inView = entry.isIntersecting;
      this.#ticked = performance.now();
      this.#ask();
    });
    sight.observe(this.#element);
    const theme = new MutationObserver(() => this.#theme());
    for (const each of [document.documentElement, document.body]) theme.observe(each, { attributeFilter: ['class'] });
    const scheme = matchMedia('(prefers-color-scheme: dark)');
    const onScheme = () => this.#theme();
    scheme.addEventListener('change', onScheme);
    this.#watchers = [() => sizes.disconnect(), () => sight.disconnect(), () => theme.disconnect(),
      () => scheme.removeEventListener('change', onScheme), () => cancelAnimationFrame(this.#asked)];
    this.#resize();
  }

  #theme() {
    if (this.#element.dataset.viewBackground === 'auto') this.background('auto');
  }

  #resize() {
    const { clientWidth, clientHeight } = this.#element;
    const sharp = Math.min(devicePixelRatio || 1, SHARPEST);
    const [width, height] = [clientWidth, clientHeight].map((side) => Math.max(1, Math.round(side * sharp)));
    if (width === this.#canvas.width && height === this.#canvas.height) return;
    this.#canvas.width = width;
    this.#canvas.height = height;
    this.#orbit.shape(width / height);
    if (this.#subject && this.#stage) this.#draw(); // at once: a canvas that changes its size is blank
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === 'f' || event.key === 'Home') this.frame();
    else if (event.key === 'w') this.wire(!this.#wired);
    else if (event.key === ' ' && this.duration) this.play(!this.#playing);
    else return;
    event.preventDefault();
  }

  #tell(state, more = {}) {
    this.#element.dataset.viewState = state;
    this.#element.dispatchEvent(new CustomEvent('view-state', { detail: { state, ...more } }));
  }
}

function still() {
  return matchMedia('(prefers-reduced-motion: reduce)').matches;
}

// The theme of the page, which gradio says by a class.
function pageIs() {
  const marked = [document.documentElement, document.body].some((each) => each.classList.contains('dark'));
  if (marked) return 'dark';
  const gradio = document.querySelector('gradio-app, .gradio-container');
  return !gradio && matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
}
