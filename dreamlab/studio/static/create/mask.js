// SPDX-License-Identifier: Apache-2.0
// A picture with its mask over it: brush and eraser, a crop, undo. White in the mask is the object.
import { button, h, segmented, set } from '/static/ui.js';

const MOST_UNDO = 24;
const LARGEST = 1024; // px a side that is edited; a server reads far fewer
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class MaskEditor {
  constructor({ onchange, oncrop }) {
    Object.assign(this, { onchange, oncrop, tool: 'add', size: 28, drawn: false, past: [], at: null, strokes: 0 });
    this.canvas = h('canvas', { tabindex: 0, role: 'application', 'aria-label': 'Mask: arrow keys move the brush, space paints, + and − change its size' });
    this.mask = document.createElement('canvas');
    this.range = h('input.dl-range', { type: 'range', min: 4, max: 120, value: this.size, 'aria-label': 'Brush size', oninput: () => {
      this.size = Number(this.range.value);
      this.draw();
    } });
    this.tools = segmented('Tool', [['add', 'Add', 'brush'], ['erase', 'Erase', 'erase'], ['crop', 'Crop', 'crop']], 'add', (tool) => {
      this.tool = tool;
      this.draw();
    });
    this.back = button('', { icon: 'undo', kind: 'quiet', title: 'Undo', disabled: true, onclick: () => this.undo() });
    this.element = h('div.dl-mask', {},
      h('div.board', {}, this.canvas),
      h('div.bar', {}, this.tools, h('label.size', {}, h('span.dl-label', {}, 'Size'), this.range), this.back));
    this.listen();
  }

  /** A picture, and the mask that was read off it (or none: all of it is the object). */
  async show(picture, mask = null) {
    const scale = Math.min(1, LARGEST / Math.max(picture.width, picture.height));
    const [width, height] = [picture.width, picture.height].map((side) => Math.max(1, Math.round(side * scale)));
    Object.assign(this, { picture, drawn: false, past: [] });
    for (const canvas of [this.canvas, this.mask]) Object.assign(canvas, { width, height });
    this.size = Math.max(4, Math.round(Math.max(width, height) / 14));
    set(this.range, { max: Math.round(Math.max(width, height) / 3), value: this.size });
    this.setMask(mask);
  }

  /** Nothing is the object yet: somebody is to paint over it. */
  bare() {
    this.setMask(null);
    if (this.drawn) return;
    this.mask.getContext('2d').clearRect(0, 0, this.mask.width, this.mask.height);
    this.tools.value = this.tool = 'add';
    this.draw();
  }

  /** Replaces the mask unless a person has drawn on it. */
  setMask(mask) {
    if (this.drawn) return;
    const pen = this.mask.getContext('2d', { willReadFrequently: true });
    pen.globalCompositeOperation = 'source-over';
    pen.clearRect(0, 0, this.mask.width, this.mask.height);
    if (mask) {
      pen.drawImage(mask, 0, 0, this.mask.width, this.mask.height);
      const data = pen.getImageData(0, 0, this.mask.width, this.mask.height);
      for (let i = 0; i < data.data.length; i += 4) data.data.set([255, 255, 255, Math.round((data.data[i] * data.data[i + 3]) / 255)], i);
      pen.putImageData(data, 0, 0);
    } else {
      pen.fillStyle = '#fff';
      pen.fillRect(0, 0, this.mask.width, this.mask.height);
    }
    this.draw();
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener('pointerdown', (event) => {
      event.preventDefault();
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      this.at = this.from = this.place(event);
      if (this.tool !== 'crop') {
        this.keep();
        this.stroke(this.at, this.at);
      }
    });
    canvas.addEventListener('pointermove', (event) => {
      const to = this.place(event);
      if (this.from && this.tool !== 'crop') this.stroke(this.at, to);
      this.at = to;
      this.draw();
    });
    const end = () => {
      if (!this.from) return;
      const { from } = this;
      this.from = null;
      if (this.tool === 'crop') this.crop(from, this.at);
      else this.onchange();
      this.draw();
    };
    canvas.addEventListener('pointerup', end);
    canvas.addEventListener('pointercancel', end);
    canvas.addEventListener('pointerleave', () => {
      if (!this.from) this.at = null;
      this.draw();
    });
    canvas.addEventListener('keydown', (event) => this.key(event));
  }

  key(event) {
    if ((event.ctrlKey || event.metaKey) && event.key === 'z') this.undo();
    else if (event.key in KEYS) {
      const [x, y] = KEYS[event.key];
      const at = this.at ?? [this.canvas.width / 2, this.canvas.height / 2];
      this.at = [at[0] + (x * this.size) / 2, at[1] + (y * this.size) / 2];
    } else if (event.key === ' ' && this.tool !== 'crop') {
      this.keep();
      this.at ??= [this.canvas.width / 2, this.canvas.height / 2];
      this.stroke(this.at, this.at);
      this.onchange();
    } else if (event.key === '+' || event.key === '-') {
      this.size = Math.max(4, this.size * (event.key === '+' ? 1.25 : 0.8));
      this.range.value = this.size;
    } else return;
    event.preventDefault();
    this.draw();
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * this.canvas.width) / box.width, ((event.clientY - box.top) * this.canvas.height) / box.height];
  }

  keep() {
    this.past.push(this.mask.getContext('2d').getImageData(0, 0, this.mask.width, this.mask.height));
    if (this.past.length > MOST_UNDO) this.past.shift();
    set(this.back, { disabled: false });
  }

  undo() {
    const last = this.past.pop();
    if (last) this.mask.getContext('2d').putImageData(last, 0, 0);
    set(this.back, { disabled: !this.past.length });
    this.drawn = this.past.length > 0;
    this.strokes += 1;
    this.onchange();
    this.draw();
  }

  stroke(from, to) {
    const pen = this.mask.getContext('2d');
    Object.assign(pen, { lineCap: 'round', lineWidth: this.size, strokeStyle: '#fff', globalCompositeOperation: this.tool === 'add' ? 'source-over' : 'destination-out' });
    pen.beginPath();
    pen.moveTo(...from);
    pen.lineTo(to[0] + 0.01, to[1]);
    pen.stroke();
    this.drawn = true;
    this.strokes += 1;
    this.draw();
  }

  crop(from, to) {
    const [left, top] = [0, 1].map((axis) => Math.max(0, Math.min(from[axis], to[axis])));
    const sides = [this.canvas.width, this.canvas.height];
    const [width, height] = [0, 1].map((axis) => Math.min(sides[axis], Math.max(from[axis], to[axis])) - [left, top][axis]);
    if (width < 16 || height < 16) return;
    const scale = this.picture.width / this.canvas.width;
    this.oncrop([left, top, width, height].map((value) => Math.round(value * scale)));
    this.tools.value = this.tool = 'add';
  }

  draw() {
    if (!this.picture) return;
    const { canvas, mask } = this;
    const pen = canvas.getContext('2d');
    pen.globalCompositeOperation = 'source-over';
    pen.drawImage(this.picture, 0, 0, canvas.width, canvas.height);
    this.veil ??= document.createElement('canvas');
    Object.assign(this.veil, { width: canvas.width, height: canvas.height });
    const cover = this.veil.getContext('2d');
    cover.fillStyle = 'rgb(24 30 52 / 0.66)';
    cover.fillRect(0, 0, canvas.width, canvas.height);
    cover.globalCompositeOperation = 'destination-out';
    cover.drawImage(mask, 0, 0);
    pen.drawImage(this.veil, 0, 0);
    const line = Math.max(1.5, canvas.width / 400);
    if (this.tool === 'crop' && this.from && this.at) {
      Object.assign(pen, { strokeStyle: '#7c9bff', lineWidth: line });
      pen.strokeRect(...this.from, this.at[0] - this.from[0], this.at[1] - this.from[1]);
    } else if (this.tool !== 'crop' && this.at) {
      Object.assign(pen, { strokeStyle: this.tool === 'add' ? '#7c9bff' : '#ff8080', lineWidth: line });
      pen.beginPath();
      pen.arc(...this.at, this.size / 2, 0, 2 * Math.PI);
      pen.stroke();
    }
  }

  /** The mask as a PNG, white on black. */
  blob() {
    const flat = document.createElement('canvas');
    Object.assign(flat, { width: this.mask.width, height: this.mask.height });
    const pen = flat.getContext('2d');
    pen.fillRect(0, 0, flat.width, flat.height);
    pen.drawImage(this.mask, 0, 0);
    return new Promise((resolve) => flat.toBlob(resolve, 'image/png'));
  }
}
