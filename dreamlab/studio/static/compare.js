// SPDX-License-Identifier: Apache-2.0
// <dl-compare>: two to four runs beside each other, their views turning as one; /?tab=compare&ids=a,b.

import { Chart } from './charts.js';
import { diffLines, hunks } from './panels/diff.js';
import { pill, say } from './panels/parts.js';
import { Poll } from './panels/poll.js';
import { Stage } from './panels/stage.js';
import { subject } from './panels/subject.js';
import { elapsed, isTerminal, standing } from './panels/words.js';
import {
  api,
  bytes,
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
  skeleton,
  trouble,
} from './ui.js';

const MOST = 4;
const CURVES = [
  ['loss', 'Loss', {}],
  ['grad_rms', 'Gradient', {}],
  ['truth_iou', 'IoU with the truth', { low: 0, high: 1, log: false, smooth: 0 }],
];

class Compare extends Panel {
  static tab = 'compare';

  show(route) {
    const ids = [...new Set((route.ids ?? '').split(',').filter(Boolean))].slice(0, MOST);
    if (ids.join() === this.ids?.join() && this.poll) return;
    this.begin(ids);
  }

  hide() {
    this.poll = null;
    this.ids = null;
    this.part();
  }

  part() {
    for (const one of this.columns ?? []) one.stage.dispose();
    this.columns = [];
  }

  begin(ids) {
    this.poll?.stop();
    this.part();
    this.ids = ids;
    if (ids.length === 0) {
      fill(
        this,
        empty({
          icon: 'compare',
          title: 'Nothing to compare',
          text: 'Choose two to four runs in the gallery.',
          action: button('To the gallery', { icon: 'gallery', kind: 'primary', onclick: () => go({ tab: 'gallery' }) }),
        }),
      );
      return;
    }
    fill(this, h('header.dlp-bar', {}, h('h2', {}, 'Compare')), skeleton(ids.length, 'card'));
    this.poll = new Poll(
      () => this.ask(ids),
      (error) => error && !this.columns.length && fill(this, trouble(error, { retry: () => this.begin(ids) })),
    );
    this.track(() => this.poll?.stop());
    this.poll.start();
  }

  /** Job, run and figures of each; what is over is not asked for again. */
  async ask(ids) {
    const found = await Promise.all(
      ids.map(async (id) => {
        const known = this.columns.find((one) => one.job.id === id);
        if (known && isTerminal(known.job.state)) return known;
        const [job, run, metrics] = await Promise.all([
          subject(id),
          api('GET', `/v1/runs/${id}`).catch(() => null), // an export has none of its own
          api('GET', `/v1/jobs/${id}/metrics`).catch(() => ({ points: [] })),
        ]);
        return { id, job, run, points: metrics?.points ?? [] };
      }),
    );
    if (ids !== this.ids) return false;
    const there = found.filter((one) => one.job);
    if (this.columns.length === 0)
      this.build(
        there,
        found.filter((one) => !one.job),
      );
    else there.forEach((one, i) => Object.assign(this.columns[i], one));
    this.draw();
    return there.some((one) => !isTerminal(one.job.state));
  }

  build(there, lost) {
    this.columns = there.map((one) => this.column(one));
    this.curves = CURVES.map(([name, title, options]) => ({
      name,
      chart: new Chart({ title, height: 96, legend: true, ...options }),
    }));
    this.table = h('table.dl-table.dlc-table');
    this.recipes = h('div.dlc-recipes');
    const missing =
      lost.length > 0 &&
      h('p.dl-notice.warn', {}, icon('warn'), `Not here any more: ${lost.map((one) => one.id).join(', ')}`);
    fill(
      this,
      h(
        'header.dlp-bar',
        {},
        h('h2', {}, 'Compare'),
        h('span.dlp-dim', {}, 'The views turn together'),
        h('span.dlp-gap'),
        button('Add runs', { icon: 'plus', onclick: () => go({ tab: 'gallery' }) }),
      ),
      missing,
      h(
        'div.dlc-grid',
        { style: { '--dlc-columns': there.length } },
        this.columns.map((one) => one.element),
      ),
      h(
        'div.dlc-below',
        {},
        h(
          'div',
          {},
          h(
            'section.dlp-block',
            {},
            h('h3', {}, 'Figures'),
            h('div.dl-scroll', { tabindex: '0', role: 'region', 'aria-label': 'Figures' }, this.table),
          ),
          h('section.dlp-block', {}, h('h3', {}, 'Recipes'), this.recipes),
        ),
        h(
          'section.dlp-block.dlc-curves',
          {},
          h('h3', {}, 'Curves'),
          this.curves.map((one) => one.chart.element),
        ),
      ),
    );
  }

  column(one) {
    const stage = new Stage({ ready: () => this.join() });
    const mark = pill();
    const words = h('span.dlp-dim');
    const away = button('', {
      icon: 'close',
      kind: 'quiet',
      small: true,
      title: 'Leave out',
      onclick: () => go({ tab: 'compare', ids: this.ids.filter((id) => id !== one.id).join() }),
    });
    const name = h('a.dlc-name', { href: href({ tab: 'watch', job: one.id }) }, one.job.prompt);
    const element = h(
      'article.dlc-column',
      {},
      stage.element,
      h('header.dlp-row', {}, h('i.dl-swatch'), name, away),
      h('div.dlp-row', {}, mark, words),
    );
    return { ...one, stage, mark, words, element };
  }

  /** Every view that is there turns with the first. */
  join() {
    const views = this.columns.map((one) => one.stage.viewer).filter(Boolean);
    views.slice(1).forEach((view) => views[0].sync(view));
  }

  draw() {
    this.columns.forEach((one, i) => {
      one.stage.show(one.job);
      one.mark.show(one.job.state);
      say(
        one.words,
        [one.job.recipe, `seed ${one.job.seed}`, isTerminal(one.job.state) ? '' : standing(one.job)]
          .filter(Boolean)
          .join(' · '),
      );
      one.element.querySelector('.dl-swatch').className = `dl-swatch dl-series-${i + 1}`;
    });
    for (const { name, chart } of this.curves) {
      const series = this.columns.map((one) => ({
        name: label(one, this.columns),
        points: one.points.filter((point) => Number.isFinite(point[name])).map((point) => [point.step, point[name]]),
      }));
      chart.element.hidden = series.every((one) => one.points.length === 0);
      chart.set(series);
    }
    this.figures();
    this.differences();
  }

  figures() {
    const rows = table(this.columns);
    fill(
      this.table,
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          h('td'),
          this.columns.map((one, i) =>
            h('th.num', { scope: 'col' }, h('i', { class: `dl-swatch dl-series-${i + 1}` }), label(one, this.columns)),
          ),
        ),
      ),
      h(
        'tbody',
        {},
        rows.map(({ name, cells, best }) =>
          h(
            'tr',
            {},
            h('th', { scope: 'row' }, name),
            cells.map((cell, i) => h('td.num', { class: i === best ? 'is-best' : '' }, cell)),
          ),
        ),
      ),
    );
  }

  differences() {
    const [first, ...others] = this.columns;
    const key = this.columns.map((one) => one.run?.yaml ?? '').join('\0');
    if (this.recipes.dataset.key === key) return;
    this.recipes.dataset.key = key;
    const text = (one) => one.run?.yaml ?? '';
    const pair = (one, i) => {
      const lines = hunks(diffLines(text(first), text(one)));
      const body = lines.length
        ? h('pre.dl-code.dlc-diff', { tabindex: '0' }, lines.map(line))
        : h('p.dlp-dim', {}, 'The same recipe.');
      return h(
        'figure',
        {},
        h(
          'figcaption',
          {},
          h('i', { class: 'dl-swatch dl-series-1' }),
          label(first, this.columns),
          icon('right', 12),
          h('i', { class: `dl-swatch dl-series-${i + 2}` }),
          label(one, this.columns),
        ),
        body,
      );
    };
    fill(
      this.recipes,
      others.length ? others.map(pair) : h('p.dlp-dim', {}, 'Choose another run to see in what the recipes differ.'),
    );
  }
}

function line({ kind, text }) {
  if (kind === '…') return h('span.dlc-gap', {}, `${text} ${text === '1' ? 'line' : 'lines'} alike\n`);
  const [tag, name] = { '-': ['del', 'gone'], '+': ['ins', 'new'], ' ': ['span', 'same'] }[kind];
  return h(`${tag}.${name}`, {}, `${kind} ${text}\n`);
}

/** What tells a run from the others beside it. */
function label({ job }, all) {
  const others = all.map((one) => one.job);
  const differs = (name) => new Set(others.map((one) => one[name])).size > 1;
  const told = [
    differs('prompt') && brief(job.prompt),
    differs('recipe') && job.recipe,
    differs('seed') && `seed ${job.seed}`,
    differs('step') && `${job.step} steps`,
  ].filter(Boolean);
  return told.slice(0, 2).join(', ') || job.id;
}

const brief = (text) => (text.length > 28 ? `${text.slice(0, 27)}…` : text);

/** Rows of figures; where more (or less) is plainly better, the best is marked. */
function table(columns) {
  const last = (one, name) => one.points.filter((point) => Number.isFinite(point[name])).at(-1)?.[name];
  const made = (one) => one.run?.reports?.none ?? {};
  const rows = [
    ['Steps', (one) => one.job.step],
    ['Time', (one) => elapsed(one.job) ?? one.job.seconds ?? NaN, duration, -1],
    ['Loss at the end', (one) => last(one, 'loss'), figure],
    ['IoU with the truth', (one) => last(one, 'truth_iou'), figure, 1],
    ['Export: PSNR, dB', (one) => made(one).check?.psnr, figure, 1],
    ['Export: silhouette IoU', (one) => made(one).check?.silhouette_iou, figure, 1],
    ['Triangles', (one) => made(one).mesh?.triangles, (value) => value.toLocaleString('en-GB')],
    ['Watertight', (one) => made(one).mesh?.watertight, (value) => (value ? 'yes' : 'no')],
    ['Model', (one) => one.job.artifacts?.find((file) => file.kind === 'glb')?.bytes, bytes],
  ];
  return rows
    .map(([name, read, show = String, better = 0]) => {
      const values = columns.map(read);
      const there = values.filter((value) => Number.isFinite(value));
      const most = better > 0 ? Math.max(...there) : Math.min(...there);
      const best =
        better !== 0 && there.length > 1 && there.filter((value) => show(value) === show(most)).length === 1
          ? values.indexOf(most)
          : -1;
      const known = (value) => value !== undefined && value !== null && !Number.isNaN(value);
      return {
        name,
        best,
        cells: values.map((value) => (known(value) ? show(value) : '–')),
        empty: !values.some(known),
      };
    })
    .filter((row) => !row.empty);
}

customElements.define('dl-compare', Compare);
