// SPDX-License-Identifier: Apache-2.0
// The arithmetic of curves; no DOM, so that node can test it. A point is [x, y].

export const finite = (points) => points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));

/** Exponential mean that starts unbiased: the first value is itself, not drawn towards zero. */
export function smooth(points, keep = 0.8) {
  let sum = 0;
  let weight = 0;
  return points.map(([x, y]) => {
    sum = keep * sum + (1 - keep) * y;
    weight = keep * weight + (1 - keep);
    return [x, sum / weight];
  });
}

/** At most `most` points, of each stretch its lowest and its highest: a spike is never lost. */
export function thin(points, most = 400) {
  if (points.length <= most) return points;
  const stretch = points.length / Math.max(1, Math.floor(most / 2));
  const kept = [];
  for (let start = 0; start < points.length; start += stretch) {
    const some = points.slice(Math.floor(start), Math.floor(start + stretch));
    if (some.length === 0) continue;
    let low = 0;
    let high = 0;
    some.forEach(([, y], i) => {
      if (y < some[low][1]) low = i;
      if (y > some[high][1]) high = i;
    });
    const both = low === high ? [low] : [Math.min(low, high), Math.max(low, high)];
    kept.push(...both.map((i) => some[i]));
  }
  const last = points[points.length - 1];
  if (kept[kept.length - 1] !== last) kept.push(last);
  return kept;
}

/** The box that holds all series; `fixed` says which sides are given. A flat line gets room above and below. */
export function domain(series, fixed = {}) {
  const all = series.flat();
  let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const [x, y] of all) {
    left = Math.min(left, x);
    right = Math.max(right, x);
    low = Math.min(low, y);
    high = Math.max(high, y);
  }
  if (all.length === 0) [left, right, low, high] = [0, 1, 0, 1];
  if (high - low < 1e-12 * Math.max(1, Math.abs(high))) {
    const room = Math.abs(high) * 0.1 || 0.5;
    [low, high] = [low - room, high + room];
  }
  if (right === left) right = left + 1;
  return { left, right, low, high, ...fixed };
}

/** Spread over two decades and positive: only then does a logarithm show more than it hides. */
export function wantsLog(points) {
  const ys = points.map(([, y]) => y);
  return ys.length > 3 && Math.min(...ys) > 0 && Math.max(...ys) / Math.min(...ys) > 100;
}

/** An SVG path through the points in a box of `width` by `height`, y upwards. */
export function path(points, box, width, height) {
  const sx = width / (box.right - box.left);
  const sy = height / (box.high - box.low);
  const place = ([x, y]) => `${((x - box.left) * sx).toFixed(2)} ${(height - (y - box.low) * sy).toFixed(2)}`;
  return points.map((point, i) => `${i ? 'L' : 'M'}${place(point)}`).join('');
}

/** The point whose x is nearest, by bisection; null of none. */
export function nearest(points, x) {
  if (points.length === 0) return null;
  let [low, high] = [0, points.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle + 1;
    else high = middle;
  }
  const before = points[Math.max(0, low - 1)];
  return Math.abs(before[0] - x) <= Math.abs(points[low][0] - x) ? before : points[low];
}
