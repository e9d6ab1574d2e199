// SPDX-License-Identifier: Apache-2.0
// Small curves without axes: the newest figure beside them says the scale.

const SVG = 'http://www.w3.org/2000/svg';

/**
 * sparkline([[step, value], ...], {width, height, log, label}): an <svg> that keeps its place; `.show(points)` draws
 * others. At most one point per pixel is drawn. `more`: further series, drawn dim.
 */
export function sparkline(points, { width = 240, height = 48, log = false, label = 'curve', more = [] } = {}) {
  const svg = document.createElementNS(SVG, 'svg');
  const attributes = { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', class: 'dl-spark', role: 'img' };
  for (const [key, value] of Object.entries(attributes)) svg.setAttribute(key, value);
  svg.setAttribute('aria-label', label);
  svg.show = (series, others = more) => {
    svg.replaceChildren();
    const all = [...others, series].map((one) => thinned(one, width).map(([x, y]) => [x, log ? Math.log10(Math.max(y, 1e-12)) : y]));
    const flat = all.flat().filter(([, y]) => Number.isFinite(y));
    if (flat.length < 2) return;
    const box = [Math.min, Math.max].map((pick) => [0, 1].map((axis) => flat.reduce((so, point) => pick(so, point[axis]), flat[0][axis])));
    all.forEach((one, i) => svg.append(line(one, box, width, height, i < all.length - 1 ? 'dim' : '')));
  };
  svg.show(points);
  return svg;
}

function line(points, [low, high], width, height, kind) {
  const path = document.createElementNS(SVG, 'path');
  const pad = 2;
  const place = ([x, y]) => {
    const across = (width * (x - low[0])) / (high[0] - low[0] || 1);
    const down = height - pad - ((height - 2 * pad) * (y - low[1])) / (high[1] - low[1] || 1);
    return `${across.toFixed(1)} ${down.toFixed(1)}`;
  };
  const drawn = points.filter(([, y]) => Number.isFinite(y));
  path.setAttribute('d', drawn.length ? `M${drawn.map(place).join('L')}` : '');
  path.setAttribute('class', kind);
  return path;
}

function thinned(points, most) {
  if (points.length <= most) return points;
  const every = points.length / most;
  return Array.from({ length: most }, (_, i) => points[Math.min(points.length - 1, Math.floor((i + 1) * every) - 1)]);
}
