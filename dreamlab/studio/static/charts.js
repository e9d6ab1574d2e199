// SPDX-License-Identifier: Apache-2.0
// Curves that grow, as inline SVG of our own: a faint line of what was measured, a clear one of its running mean.

import { domain, finite, nearest, path, smooth, thin, wantsLog } from './panels/curve.js';
import { figure, h } from './ui.js';

const NS = 'http://www.w3.org/2000/svg';
const WIDTH = 320;

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

/**
 * `new Chart({title, height, log: 'auto'|true|false, low, high, format, smooth: 0.8, legend})`, then
 * `.set([{name, points: [[x, y], ...]}])`, `.mark(x)`. Colours follow the order of the series.
 */
export class Chart {
  #series = [];
  #mark = null;
  #hover = null;

  constructor(options) {
    this.options = { height: 72, log: 'auto', format: figure, smooth: 0.8, legend: false, ...options };
    this.value = h('span.dl-chart-value', {}, '–');
    this.plot = svg('svg', {
      class: 'dl-chart-plot',
      viewBox: `0 0 ${WIDTH} ${this.options.height}`,
      preserveAspectRatio: 'none',
      role: 'img',
    });
    this.top = h('span', {});
    this.bottom = h('span', {});
    this.left = h('span', {});
    this.right = h('span', {});
    this.scale = h('span', { class: 'dl-chart-scale' });
    this.names = h('ul', { class: 'dl-chart-names' });
    this.names.hidden = true;
    this.element = h(
      'figure',
      { class: 'dl-chart' },
      h('figcaption', {}, h('span', { class: 'dl-chart-title' }, this.options.title, this.scale), this.value),
      h(
        'div',
        { class: 'dl-chart-box' },
        this.plot,
        h('div', { class: 'dl-chart-y', 'aria-hidden': 'true' }, this.top, this.bottom),
      ),
      h('div', { class: 'dl-chart-x', 'aria-hidden': 'true' }, this.left, this.right),
      this.names,
    );
    this.plot.addEventListener('pointermove', (event) => this.#point(event));
    this.plot.addEventListener('pointerleave', () => this.#leave());
  }

  set(series) {
    this.#series = series.map((one) => ({ ...one, points: finite(one.points) }));
    this.#draw();
  }

  /** A line at the moment that is looked at; null takes it away. */
  mark(x) {
    if (this.#mark === x) return;
    this.#mark = x;
    this.#draw();
  }

  get series() {
    return this.#series;
  }

  #draw() {
    const { height, log, low, high, format } = this.options;
    const shown = this.#series.filter((one) => one.points.length > 0);
    const logarithmic =
      log === true || (log === 'auto' && shown.length > 0 && shown.every((one) => wantsLog(one.points)));
    const lift = logarithmic ? ([x, y]) => [x, Math.log10(Math.max(y, 1e-12))] : (point) => point;
    const lines = this.#series.map((one) => thin(one.points.map(lift)));
    const fixed = {};
    if (low !== undefined && !logarithmic) fixed.low = low;
    if (high !== undefined && !logarithmic) fixed.high = high;
    const box = domain(lines, fixed);
    this.box = box;
    this.plot.replaceChildren(...this.#grid(height), ...lines.flatMap((line, i) => this.#line(line, box, height, i)));
    if (this.#mark !== null) this.plot.append(this.#rule(this.#mark, box, height, 'dl-chart-mark'));
    if (this.#hover !== null) this.plot.append(this.#rule(this.#hover, box, height, 'dl-chart-hover'));
    const back = logarithmic ? (y) => format(10 ** y) : format;
    const any = shown.length > 0;
    this.top.textContent = any ? back(box.high) : '';
    this.bottom.textContent = any ? back(box.low) : '';
    // in the two corners that the curve leaves free
    const rises = any && shown[0].points.at(-1)[1] > shown[0].points[0][1];
    this.element.classList.toggle('is-rising', rises);
    this.left.textContent = any ? `step ${box.left}` : '';
    this.right.textContent = any ? String(box.right) : 'no figures yet';
    this.scale.textContent = logarithmic ? 'log' : '';
    this.element.classList.toggle('dl-chart-empty', !any);
    this.#tell();
    this.#legend();
  }

  #grid(height) {
    return [0.25, 0.5, 0.75].map((share) =>
      svg('line', { class: 'dl-chart-grid', x1: 0, x2: WIDTH, y1: height * share, y2: height * share }),
    );
  }

  #line(points, box, height, index) {
    if (points.length === 0) return [];
    const colour = `dl-series-${(index % 6) + 1}`;
    const room = (line) => path(line, box, WIDTH, height - 4);
    const keep = this.options.smooth;
    const wanted = keep > 0 && points.length > 6;
    const drawn = [svg('path', { class: `dl-chart-line ${colour}${wanted ? ' dl-chart-raw' : ''}`, d: room(points) })];
    if (wanted) drawn.push(svg('path', { class: `dl-chart-line ${colour}`, d: room(smooth(points, keep)) }));
    if (points.length === 1) {
      const [[x, y]] = points;
      const at = {
        cx: ((x - box.left) / (box.right - box.left)) * WIDTH,
        cy: (height - 4) * (1 - (y - box.low) / (box.high - box.low)),
      };
      drawn.push(svg('circle', { class: `dl-chart-dot ${colour}`, r: 2.5, ...at }));
    }
    const group = svg('g', { transform: 'translate(0 2)', 'data-series': this.#series[index].name ?? '' }, ...drawn);
    return [group];
  }

  #rule(x, box, height, name) {
    const at = ((x - box.left) / (box.right - box.left)) * WIDTH;
    return svg('line', { class: name, x1: at, x2: at, y1: 0, y2: height });
  }

  #tell() {
    const { title, format } = this.options;
    const at = this.#hover ?? this.#mark;
    const one = this.#series.find((some) => some.points.length > 0);
    if (!one) {
      this.value.textContent = '–';
      this.plot.setAttribute('aria-label', `${title}: no figures yet`);
      return;
    }
    const last = one.points[one.points.length - 1];
    const told = at === null ? last : nearest(one.points, at);
    this.value.textContent = at === null ? format(told[1]) : `${format(told[1])} at ${told[0]}`;
    const spoken = this.#series
      .filter((some) => some.points.length > 0)
      .map(
        (some) =>
          `${some.name ? `${some.name} ` : ''}from ${format(some.points[0][1])} to ${format(some.points.at(-1)[1])}`,
      );
    this.plot.setAttribute('aria-label', `${title}: ${spoken.join('; ')}, at step ${last[0]}`);
  }

  #legend() {
    this.names.hidden = !this.options.legend || this.#series.length < 2;
    if (this.names.hidden) return;
    const at = this.#hover;
    this.names.replaceChildren(
      ...this.#series.map((one, i) => {
        const point = at === null ? one.points.at(-1) : nearest(one.points, at);
        return h(
          'li',
          {},
          h('i', { class: `dl-swatch dl-series-${(i % 6) + 1}` }),
          h('span', {}, one.name),
          h('b', {}, point ? this.options.format(point[1]) : '–'),
        );
      }),
    );
  }

  #point(event) {
    const one = this.#series.find((some) => some.points.length > 0);
    if (!one) return;
    const place = this.plot.getBoundingClientRect();
    const x = this.box.left + ((event.clientX - place.left) / place.width) * (this.box.right - this.box.left);
    const found = nearest(one.points, x);
    if (found[0] === this.#hover) return;
    this.#hover = found[0];
    this.#draw();
  }

  #leave() {
    this.#hover = null;
    this.#draw();
  }
}
