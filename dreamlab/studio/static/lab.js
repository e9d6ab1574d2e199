// SPDX-License-Identifier: Apache-2.0
// <dl-lab>: one prompt, several rules, scenes or seeds, forming side by side with the truth beside them;
// /?tab=lab&batch=ID.

import { Chart } from './charts.js';
import { cancel } from './panels/actions.js';
import { askedOf, nameOf } from './panels/batch.js';
import { Form } from './panels/labform.js';
import { keyed, pill, save, say, sheet } from './panels/parts.js';
import { onChange, Poll } from './panels/poll.js';
import { truthOf } from './panels/watching.js';
import { csv, elapsed, isTerminal, standing } from './panels/words.js';
import {
  api,
  button,
  duration,
  empty,
  figure,
  fill,
  go,
  h,
  href,
  icon,
  Panel,
  progress,
  query,
  skeleton,
  trouble,
} from './ui.js';

const COLUMNS = [
  ['name', 'Name', String],
  ['state', 'State', String],
  ['step', 'Step', String],
  ['iou', 'IoU', figure],
  ['loss', 'Loss', figure],
  ['gradient', 'Gradient', figure],
  ['speed', 'it/s', figure],
  ['seconds', 'Time', duration],
];

class Lab extends Panel {
  static tab = 'lab';

  show(route) {
    if (!this.ready) this.build();
    const batch = route.batch ?? null;
    if (batch !== this.batch) this.begin(batch);
    if (!this.poll) {
      this.poll = new Poll(
        () => this.ask(),
        (error) => this.fail(error),
      );
      this.track(onChange((told) => this.cells.has(told.job) && this.poll?.wake()));
      this.track(() => this.poll?.stop());
      this.poll.start();
    }
  }

  hide() {
    this.poll = null;
  }

  build() {
    Object.assign(this, { ready: true, batch: undefined, cells: new Map(), sort: { column: 'iou', down: true } });
    this.form = new Form((batch) => go({ tab: 'lab', batch }));
    this.result = h('div.dll-result');
    this.grid = h('ul.dll-grid');
    this.iou = new Chart({
      title: 'IoU with the truth',
      height: 150,
      low: 0,
      high: 1,
      log: false,
      smooth: 0,
      legend: true,
    });
    this.loss = new Chart({ title: 'Loss', height: 150, legend: true });
    this.table = h('table.dl-table.dll-table');
    this.asked = h('h3.dll-prompt');
    this.stop = button('Cancel all', {
      icon: 'close',
      kind: 'quiet',
      onclick: (event) => this.cancelAll(event.currentTarget),
    });
    this.curves = h('div.dlp-block.dll-curves', {}, this.iou.element, this.loss.element);
    this.numbers = h(
      'section.dlp-block',
      {},
      h(
        'header.dlp-row',
        {},
        h('h3', {}, 'Figures'),
        h('span.dlp-gap'),
        button('CSV', { icon: 'download', small: true, onclick: () => this.download('csv') }),
        button('JSON', { icon: 'download', small: true, onclick: () => this.download('json') }),
      ),
      h('div.dl-scroll', { tabindex: '0', role: 'region', 'aria-label': 'Figures' }, this.table),
    );
    fill(
      this,
      h('header.dlp-bar', {}, h('h2', {}, 'Lab'), h('span.dlp-dim', {}, 'One prompt, several ways, beside the truth')),
      this.form.element,
      this.result,
    );
  }

  begin(batch) {
    this.batch = batch;
    this.jobs = [];
    this.cells.clear();
    this.grid.replaceChildren();
    if (batch) fill(this.result, skeleton(3, 'card'));
    else
      fill(
        this.result,
        empty({
          icon: 'lab',
          title: 'Which way is better?',
          text: 'Choose rules, scenes or seeds above. They form here side by side; for prompts of the procedural world the truth stands beside them, and how near they are is measured as they grow.',
        }),
      );
    this.poll?.wake();
  }

  async ask() {
    const { batch } = this;
    if (!batch) return false;
    const { jobs } = await api('GET', `/v1/jobs${query({ batch, limit: 50 })}`);
    if (batch !== this.batch) return true;
    jobs.reverse(); // as they were asked for
    await Promise.all(jobs.map((job) => this.points(job)));
    if (batch !== this.batch) return true;
    if (this.jobs.length === 0 && jobs.length > 0) {
      const asked = askedOf(jobs);
      if (asked) this.form.follow(asked);
    }
    this.jobs = jobs;
    this.draw();
    return jobs.some((job) => !isTerminal(job.state));
  }

  /** The figures of a job since those that are known. */
  async points(job) {
    const known = this.cells.get(job.id) ?? { points: [], seen: '' };
    this.cells.set(job.id, known);
    const key = `${job.step}/${job.state}`;
    if (known.seen === key || (job.state === 'queued' && !job.step)) return;
    const { points } = await api('GET', `/v1/jobs/${job.id}/metrics${query({ after: known.points.at(-1)?.step })}`);
    const from = points[0]?.step ?? Infinity;
    known.points = [...known.points.filter((one) => one.step < from), ...points];
    known.seen = key;
  }

  draw() {
    const { jobs } = this;
    if (jobs.length === 0) {
      fill(
        this.result,
        empty({
          icon: 'search',
          title: 'Nothing of this batch is here',
          text: 'It may have been deleted.',
          action: button('Start anew', { onclick: () => go({ tab: 'lab' }) }),
        }),
      );
      return;
    }
    const [first] = jobs;
    const running = jobs.filter((job) => !isTerminal(job.state));
    say(this.asked, first.prompt);
    this.stop.hidden = running.length === 0;
    // of one prompt there is one truth, and whoever began first has drawn it
    const truth = jobs.map((job) => truthOf(job, this.cells.get(job.id).points)).find(Boolean) ?? null;
    keyed(this.grid, jobs, {
      key: (job) => job.id,
      make: (job) => cell(job),
      show: (element, job, i) => element.show(job, this.row(job), truth, i),
    });
    const series = (name) =>
      jobs.map((job) => ({
        name: nameOf(job),
        points: this.cells
          .get(job.id)
          .points.filter((one) => Number.isFinite(one[name]))
          .map((one) => [one.step, one[name]]),
      }));
    const iou = series('truth_iou');
    this.iou.element.hidden = iou.every((one) => one.points.length === 0) && running.length === 0;
    this.iou.set(iou);
    this.loss.set(series('loss'));
    this.tabulate();
    if (this.result.firstChild !== this.top) {
      this.top = h('header.dlp-bar.dll-top', {}, this.asked, h('span.dlp-gap'), this.stop);
      fill(this.result, this.top, this.grid, this.curves, this.numbers);
    }
  }

  row(job) {
    const { points } = this.cells.get(job.id);
    const last = (name) => points.findLast((one) => Number.isFinite(one[name]))?.[name] ?? null;
    const seconds = elapsed(job);
    const speed = job.it_per_s ?? (seconds > 0 && job.step && isTerminal(job.state) ? job.step / seconds : null);
    return {
      id: job.id,
      name: nameOf(job),
      state: job.state,
      step: job.step ?? 0,
      iou: last('truth_iou'),
      loss: last('loss'),
      gradient: last('grad_rms'),
      speed,
      seconds,
    };
  }

  rows() {
    const { column, down } = this.sort;
    const sign = down ? -1 : 1;
    const compare = (a, b) => (typeof a === 'string' ? a.localeCompare(b) : a - b);
    const there = (value) => value !== null && value !== undefined;
    return this.jobs
      .map((job) => this.row(job))
      .sort((a, b) => {
        if (there(a[column]) !== there(b[column])) return there(a[column]) ? -1 : 1; // what is not measured is last
        return there(a[column]) ? sign * compare(a[column], b[column]) : 0;
      });
  }

  tabulate() {
    const rows = this.rows();
    if (!this.heads) {
      this.heads = COLUMNS.map(([key, name]) =>
        h(
          'th',
          { scope: 'col', class: key === 'name' || key === 'state' ? '' : 'num' },
          h('button.dll-sort', { type: 'button', onclick: () => this.sortBy(key) }, name, icon('down', 10)),
        ),
      );
      this.lines = h('tbody');
      fill(this.table, h('thead', {}, h('tr', {}, this.heads)), this.lines);
    }
    COLUMNS.forEach(([key], i) =>
      this.heads[i].setAttribute(
        'aria-sort',
        key === this.sort.column ? (this.sort.down ? 'descending' : 'ascending') : 'none',
      ),
    );
    keyed(this.lines, rows, {
      key: (row) => row.id,
      make: (row) =>
        h(
          'tr',
          {},
          COLUMNS.map(([key]) =>
            h(
              'td',
              { class: key === 'name' || key === 'state' ? '' : 'num' },
              key === 'name'
                ? h('a', { href: href({ tab: 'watch', job: row.id }) })
                : key === 'state'
                  ? pill()
                  : h('span'),
            ),
          ),
        ),
      show: (element, row) =>
        COLUMNS.forEach(([key, , show], i) => {
          const place = element.children[i].firstChild;
          if (key === 'state') place.show(row.state);
          else say(place, row[key] === null || row[key] === undefined ? '–' : show(row[key]));
        }),
    });
  }

  sortBy(column) {
    const down = this.sort.column === column ? !this.sort.down : ['iou', 'speed'].includes(column);
    this.sort = { column, down };
    this.tabulate();
  }

  download(kind) {
    const rows = this.rows();
    const name = `lab-${this.batch}`;
    if (kind === 'json') {
      const whole = {
        batch: this.batch,
        prompt: this.jobs[0].prompt,
        jobs: rows.map((row) => ({ ...row, points: this.cells.get(row.id).points })),
      };
      save(`${name}.json`, JSON.stringify(whole, null, 1), 'application/json');
      return;
    }
    const keys = ['id', ...COLUMNS.map(([key]) => key)];
    save(`${name}.csv`, csv([keys, ...rows.map((row) => keys.map((key) => row[key]))]), 'text/csv');
  }

  cancelAll(sender) {
    const each = this.jobs.filter((job) => !isTerminal(job.state));
    cancel({ ...each[0], each }, sender, () => this.poll?.wake());
  }

  fail(error) {
    if (error && this.jobs.length === 0 && this.batch)
      fill(this.result, trouble(error, { retry: () => this.poll?.wake() }));
  }
}

/** One of those that form: as it is now, the truth beside it, and how near it is. */
function cell(job) {
  const made = sheet();
  const real = sheet();
  const truth = h('figure', { hidden: true }, real, h('figcaption', {}, 'truth'));
  const mark = pill();
  const bar = progress(0, 'steps done');
  const words = h('span.dlp-dim');
  const near = h('b');
  const name = h('a.dll-name', { href: href({ tab: 'watch', job: job.id }) });
  const swatch = h('i.dl-swatch');
  const wait = h('p.dlp-wait', {}, 'waiting for its first picture');
  const element = h(
    'li.dll-cell',
    {},
    h('header.dlp-row', {}, swatch, name, h('span.dlp-gap'), near),
    h('div.dlp-pair', {}, h('figure', {}, made, wait, h('figcaption', {}, 'formed')), truth),
    bar,
    h('div.dlp-row', {}, mark, words),
  );
  element.show = (fresh, row, url, i) => {
    swatch.className = `dl-swatch dl-series-${(i % 6) + 1}`;
    say(name, nameOf(fresh));
    made.look(fresh.preview, `${nameOf(fresh)} at step ${fresh.step}, four sides`);
    wait.hidden = Boolean(fresh.preview);
    truth.hidden = !url;
    real.look(url, 'the truth, the same four sides');
    mark.show(fresh.state);
    bar.hidden = fresh.state === 'succeeded';
    bar.show(fresh.state === 'running' && !fresh.step ? null : (fresh.progress ?? 0));
    say(words, standing(fresh));
    say(near, row.iou === null ? '' : `IoU ${row.iou.toFixed(2)}`);
  };
  return element;
}

customElements.define('dl-lab', Lab);
