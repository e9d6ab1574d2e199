// SPDX-License-Identifier: Apache-2.0
// Where the camera is, by mouse, touch and keys: around a centre at a distance, both in units of what is seen, so that
// views of things of different sizes can turn together.

import * as THREE from 'three/webgpu';
import { OrbitControls } from 'three/addons/controls/OrbitControls.js';

const START = { azimuth: 25, elevation: 15, distance: null, target: [0, 0, 0] };
const STRANGE = 3; // times as large
const TURN = 10; // degrees a key press
const KEYS = {
  ArrowLeft: { azimuth: -TURN }, ArrowRight: { azimuth: TURN }, ArrowUp: { elevation: TURN },
  ArrowDown: { elevation: -TURN }, '+': { zoom: 0.85 }, '=': { zoom: 0.85 }, '-': { zoom: 1 / 0.85 },
};
const SLIDES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

export class Orbit {
  // `moved` is called whenever the camera has.
  constructor(element, fovy, moved) {
    this.camera = new THREE.PerspectiveCamera(fovy, 1, 0.01, 100);
    this.moved = moved;
    this.centre = new THREE.Vector3();
    this.radius = 1;
    this.quiet = false;
    const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
    this.controls = new OrbitControls(this.camera, element);
    this.controls.enableDamping = !still;
    this.controls.dampingFactor = 0.12;
    this.controls.rotateSpeed = 0.9;
    this.controls.zoomToCursor = true;
    this.controls.addEventListener('change', () => this.quiet || this.moved());
    element.style.touchAction = 'pan-y'; // a page with a view as wide as the screen can still be scrolled
    this.element = element;
    this.onWheel = (event) => this.#wheel(event);
    this.onKey = (event) => this.#key(event);
    element.addEventListener('wheel', this.onWheel, { capture: true, passive: true });
    element.addEventListener('keydown', this.onKey);
    this.set(START);
  }

  // What is looked at; the camera stays where it was in the world.
  about({ centre, radius }) {
    this.centre.copy(centre);
    this.radius = radius;
    this.#depth();
  }

  // Whether something is so far from here, or of so different a size, that this view of it would show little.
  strange({ centre, radius }) {
    const ratio = radius / this.radius;
    return ratio > STRANGE || ratio < 1 / STRANGE || centre.distanceTo(this.centre) > 0.5 * Math.max(radius, this.radius);
  }

  // In front of all of it.
  frame() {
    this.set(START);
  }

  // {azimuth, elevation} in degrees, {distance, target} in radii of what is seen, from its centre.
  get() {
    const { camera, controls, centre, radius } = this;
    const offset = camera.position.clone().sub(controls.target);
    const sphere = new THREE.Spherical().setFromVector3(offset);
    const target = controls.target.clone().sub(centre).divideScalar(radius).toArray();
    const degrees = THREE.MathUtils.radToDeg;
    return { azimuth: degrees(sphere.theta), elevation: 90 - degrees(sphere.phi), distance: offset.length() / radius, target };
  }

  set({ azimuth, elevation, distance, target }) {
    const { camera, controls, centre, radius } = this;
    this.quiet = true;
    this.#finish(); // what was fading does not move the camera once it is placed
    const radians = THREE.MathUtils.degToRad;
    controls.target.set(...target).multiplyScalar(radius).add(centre);
    const sphere = new THREE.Spherical((distance ?? this.#fitting()) * radius, radians(90 - elevation), radians(azimuth));
    camera.position.setFromSpherical(sphere.makeSafe()).add(controls.target);
    this.#settle();
  }

  // A camera as in our own pictures: around the world's origin, in its units.
  exactly({ azimuth, elevation, distance, fovy }) {
    this.camera.fov = fovy;
    this.camera.updateProjectionMatrix();
    const target = this.centre.clone().negate().divideScalar(this.radius).toArray();
    this.set({ azimuth, elevation, distance: distance / this.radius, target });
  }

  shape(aspect) {
    this.camera.aspect = aspect;
    this.camera.updateProjectionMatrix();
  }

  // Goes on with a movement that is fading; what is too little to be seen is made at once.
  update() {
    if (!this.controls.update()) this.#finish();
  }

  dispose() {
    this.element.removeEventListener('wheel', this.onWheel, { capture: true });
    this.element.removeEventListener('keydown', this.onKey);
    this.controls.dispose();
  }

  // Radii away at which a sphere around it fills the view, with some air.
  #fitting() {
    const half = THREE.MathUtils.degToRad(this.camera.fov / 2);
    const narrow = Math.atan(Math.tan(half) * Math.min(1, this.camera.aspect));
    return 1.12 / Math.sin(narrow);
  }

  #settle() {
    this.quiet = true;
    this.#finish();
    this.quiet = false;
    this.#depth();
    this.moved();
  }

  #finish() {
    const damping = this.controls.enableDamping;
    this.controls.enableDamping = false;
    this.controls.update();
    this.controls.enableDamping = damping;
  }

  #depth() {
    this.controls.minDistance = 0.15 * this.radius;
    this.controls.maxDistance = 30 * this.radius;
    this.camera.near = 0.02 * this.radius;
    this.camera.far = 60 * this.radius;
    this.camera.updateProjectionMatrix();
  }

  // The wheel belongs to a page that scrolls until someone has taken hold of the view.
  #wheel(event) {
    const page = document.scrollingElement;
    const scrolls = page && page.scrollHeight > page.clientHeight + 1;
    const ours = event.ctrlKey || !scrolls || this.element.contains(document.activeElement);
    this.controls.enableZoom = ours;
    if (!ours) setTimeout(() => { this.controls.enableZoom = true; });
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const view = this.get();
    if (event.shiftKey && SLIDES[event.key]) {
      const [across, up] = SLIDES[event.key].map((step) => step * 0.08 * view.distance * this.radius);
      const slide = new THREE.Vector3(across, up, 0).applyQuaternion(this.camera.quaternion);
      view.target = slide.divideScalar(this.radius).add(new THREE.Vector3(...view.target)).toArray();
    } else if (KEYS[event.key]) {
      const { azimuth = 0, elevation = 0, zoom = 1 } = KEYS[event.key];
      view.azimuth += azimuth;
      view.elevation = Math.min(Math.max(view.elevation + elevation, -89), 89);
      view.distance = Math.min(Math.max(view.distance * zoom, 0.15), 30);
    } else {
      return;
    }
    event.preventDefault();
    this.set(view);
  }
}
