// SPDX-License-Identifier: Apache-2.0
// The smaller parts of the watch panel: the log, the truth beside it, the files, the card of an error.

import { api, bytes, button, copy, figure, fill, h, href, icon } from '../ui.js';
import { say, sheet } from './parts.js';
import { isTerminal, runId } from './words.js';

const KEPT = 200; // lines of a log that are shown
const TAIL = 12; // lines of it in an error card

/** The tail of a run's log, asked for only while it is open or wanted for an error. */
export class Log {
  #id = null;
  #after = 0;
  #lines = [];
  #over = false;

  constructor(wake) {
    this.text = h('pre.dlp-log', { tabindex: '0', 'aria-label': 'Log' });
    this.element = h('details.dlp-block.dlp-details', {}, h('summary', {}, 'Log'), this.text);
    this.element.addEventListener('toggle', () => this.element.open && wake());
  }

  reset(id) {
    this.#id = id;
    this.#after = 0;
    this.#lines = [];
    this.#over = false;
    say(this.text, '');
  }

  async ask(job) {
    const wanted = this.element.open || ['failed', 'interrupted'].includes(job.state);
    if (!wanted || this.#over) return;
    const told = await api('GET', `/v1/jobs/${job.id}/log?after=${this.#after}`).catch(() => null);
    if (!told || this.#id !== job.id) return;
    this.#over = isTerminal(job.state);
    this.#after = told.next ?? this.#after;
    if (!told.text) {
      if (this.#lines.length === 0) say(this.text, 'Nothing is logged yet.');
      return;
    }
    const down = this.text.scrollTop + this.text.clientHeight > this.text.scrollHeight - 30;
    this.#lines = [...this.#lines, ...told.text.split('\n').filter(Boolean)].slice(-KEPT);
    say(this.text, this.#lines.join('\n'));
    if (down) this.text.scrollTop = this.text.scrollHeight;
  }

  get tail() {
    return this.#lines.slice(-TAIL).join('\n');
  }

  /** What, why, what to do, the last lines; to be copied as a whole. */
  problem(job, run) {
    const { code, message, hint } = job.error;
    const whole = [
      `DreamLab job ${job.id} (${job.kind}, recipe ${job.recipe}, seed ${job.seed})`,
      `prompt: ${job.prompt}`,
      `stopped at step ${job.step} of ${job.total}, attempt ${job.attempt}`,
      `error ${code}: ${message}`,
      hint,
      '',
      this.tail,
      '',
      run?.yaml ?? '',
    ];
    return h(
      'section.dlp-problem',
      { role: 'alert' },
      h('h3', {}, icon('warn'), job.state === 'interrupted' ? 'Interrupted' : 'It failed'),
      h('p.dlp-what', {}, message),
      hint && h('p', {}, hint),
      this.tail && h('pre.dlp-log', { tabindex: '0', 'aria-label': 'The last lines of the log' }, this.tail),
      button('Copy report', {
        icon: 'copy',
        small: true,
        onclick: () => copy(whole.filter((one) => one !== undefined).join('\n'), 'Report copied'),
      }),
    );
  }
}

/** What the world really holds, beside what has formed of it; of prompts of the procedural world only. */
export class Truth {
  constructor() {
    this.made = sheet();
    this.true = sheet();
    this.caption = h('figcaption');
    this.element = h(
      'section.dlp-block.dlp-truth',
      { hidden: true },
      h('h3', {}, 'Beside the truth'),
      h(
        'div.dlp-pair',
        {},
        h('figure', {}, this.made, this.caption),
        h('figure', {}, this.true, h('figcaption', {}, 'truth')),
      ),
    );
  }

  show(job, preview, points) {
    const url = truthOf(job, points);
    this.element.hidden = !url || !preview;
    if (this.element.hidden) return;
    this.made.look(preview.url, `as formed at step ${preview.step}, four sides`);
    this.true.look(url, 'the truth, the same four sides');
    say(this.caption, `step ${preview.step}`);
  }
}

/** The picture of the truth: there is one wherever the nearness to it was measured. */
export function truthOf(job, points) {
  return points.some((one) => Number.isFinite(one.truth_iou))
    ? `/v1/runs/${runId(job)}/files/previews/truth.png`
    : null;
}

/** Figures of the finished asset: triangles, likeness to the scene. */
export function report(run) {
  const made = run?.reports?.none;
  if (!made) return [];
  const told = [];
  if (made.mesh?.triangles) told.push(['Triangles', made.mesh.triangles.toLocaleString('en-GB')]);
  if (Number.isFinite(made.check?.psnr)) told.push(['Export check', `${figure(made.check.psnr)} dB`]);
  return told;
}

/** Links to what was made, largest use first. */
export function files(box, job, run) {
  const all = (job.artifacts ?? []).filter((one) => /^(export|painted)\//.test(one.name) && one.kind !== 'report');
  const key = all.map((one) => one.sha256).join();
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.hidden = all.length === 0;
  const row = (one) =>
    h(
      'li',
      {},
      h(
        'a',
        { href: one.url, download: one.name.split('/').at(-1) },
        icon('download', 14),
        one.name.replace(/^export\//, ''),
      ),
      h('span.dlp-dim', {}, bytes(one.bytes)),
    );
  fill(
    box,
    h('h3', {}, 'Files'),
    h('ul.dlp-files', {}, all.map(row)),
    h('a.dlp-more', { href: href({ tab: 'export', job: run?.id ?? job.id }) }, 'Other formats, faces, textures'),
  );
}
