// SPDX-License-Identifier: Apache-2.0
// Figures for people.

/** 48 -> '48 s', 200 -> '3 min', 5400 -> '1 h 30 min'. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return '';
  if (seconds < 1) return '< 1 s';
  if (seconds < 100) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ''}`;
}

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  const units = ['kB', 'MB', 'GB', 'TB'];
  let value = count / 1000;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** '2026-11-30T07:12:48+00:00' -> 'now', '3 min ago', '5 h ago', 'yesterday', '12 Nov'. */
export function ago(time, now = Date.now()) {
  const then = Date.parse(time);
  if (Number.isNaN(then)) return '';
  const seconds = (now - then) / 1000;
  if (seconds < 45) return 'now';
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.round(seconds / 3600)} h ago`;
  if (seconds < 172800) return 'yesterday';
  const day = new Date(then);
  const year = day.getFullYear() === new Date(now).getFullYear() ? undefined : 'numeric';
  return day.toLocaleDateString('en-GB', { day: 'numeric', month: 'short', year });
}

/** 1234567 -> '1,234,567'. */
export function count(value) {
  return value.toLocaleString('en-GB');
}

/** Three meaningful digits: 0.000312 -> '3.12e-4', 152.18 -> '152'. */
export function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–';
  if (value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 1e6)) return value.toExponential(2);
  if (Math.abs(value) >= 100) return value.toFixed(0);
  return String(Number(value.toPrecision(3)));
}

/** One of English's plurals: many(3, 'job') -> '3 jobs'. */
export function many(value, noun, plural = `${noun}s`) {
  return `${count(value)} ${value === 1 ? noun : plural}`;
}
