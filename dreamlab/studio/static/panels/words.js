// SPDX-License-Identifier: Apache-2.0
// Words and numbers for people; no DOM, so that node can test it.

import { duration } from '../ui/format.js';
import { plain } from '../ui/said.js';

const TERMINAL = ['succeeded', 'failed', 'cancelled', 'interrupted'];

const STATES = {
  queued: 'Waiting',
  running: 'Forming',
  succeeded: 'Finished',
  failed: 'Failed',
  cancelled: 'Cancelled',
  interrupted: 'Interrupted',
};

const KINDS = {
  dream: 'Dream',
  texture: 'Texture',
  continue: 'Continued',
  branch: 'Branch',
  export: 'Export',
};

export const isTerminal = (state) => TERMINAL.includes(state);
export const stateName = (state) => STATES[state] ?? state;
export const kindName = (kind) => KINDS[kind] ?? kind;

/** The id of the run whose folder a job writes: its own, but for an export. */
export const runId = (job) => job.links?.run?.split('/').pop() ?? job.id;

/** What is left, said no more exactly than it is known. */
export function eta(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return 'measuring';
  if (seconds < 1) return 'a moment';
  return seconds < 100 ? `${Math.ceil(seconds)} s` : `about ${duration(seconds)}`;
}

/** One line that says where a job stands. */
export function standing(job) {
  if (job.state === 'queued') {
    const place = Number.isFinite(job.position)
      ? job.position <= 1
        ? 'next'
        : `${job.position - 1} ahead`
      : 'waiting';
    return Number.isFinite(job.eta_s) ? `${place}, starts in ${eta(job.eta_s)}` : place;
  }
  if (job.state === 'running') {
    if (!job.total || !job.step) return job.stage ? `${job.stage}, starting` : 'starting';
    return `${job.stage ? `${job.stage} ` : ''}${job.step}/${job.total}, ${eta(job.eta_s)} left`;
  }
  if (Number.isFinite(job.stopped_at) && job.stopped_at !== null) return `kept at step ${job.stopped_at}`;
  if (job.error) return plain(job.error.message);
  return job.total ? `${job.step ?? 0}/${job.total} steps` : stateName(job.state).toLowerCase();
}

/** Seconds between start and end, or until now while it runs. */
export function elapsed(job, now = Date.now()) {
  const start = Date.parse(job.started ?? '');
  if (Number.isNaN(start)) return null;
  const end = Date.parse(job.finished ?? '');
  return ((Number.isNaN(end) ? now : end) - start) / 1000;
}

/** Cells as RFC 4180 wants them; a cell that a spreadsheet would run is led by an apostrophe. */
export function csv(rows) {
  const cell = (value) => {
    let text = value === null || value === undefined ? '' : String(value);
    if (typeof value === 'string' && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(',')).join('\r\n') + '\r\n';
}

/** "path=value" lines as an object; numbers, true and false are read as such. */
export function readSettings(text) {
  const found = {};
  for (const line of text
    .split('\n')
    .map((one) => one.trim())
    .filter(Boolean)) {
    const cut = line.indexOf('=');
    if (cut < 1) throw new Error(`“${line}” is no setting: write path=value.`);
    const value = line.slice(cut + 1).trim();
    const number = Number(value);
    found[line.slice(0, cut).trim()] =
      value !== '' && Number.isFinite(number) ? number : ({ true: true, false: false }[value] ?? value);
  }
  return found;
}
