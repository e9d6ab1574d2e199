// SPDX-License-Identifier: Apache-2.0
// <dl-watch>: one run forming. Everything it shows comes again after a reload from /?tab=watch&job=ID&at=STEP.

import { Chart } from './charts.js';
import { actions, favourite, remove, reuse } from './panels/actions.js';
import { facts, failing, pill, say, unmade } from './panels/parts.js';
import { onChange, Poll } from './panels/poll.js';
import { Stage } from './panels/stage.js';
import { Strip } from './panels/strip.js';
import { previewsOf, subject } from './panels/subject.js';
import { Log, Truth, files, report } from './panels/watching.js';
import { elapsed, eta, isTerminal, kindName, runId, standing } from './panels/words.js';
import { tree } from './tree.js';
import { api, button, duration, empty, figure, fill, go, h, Panel, progress, query, skeleton, trouble } from './ui.js';

const RUN_AGAIN_MS = 15_000; // checkpoints and lineage change seldom

class Watch extends Panel {
  static tab = 'watch';

  show(route) {
    if (!this.ready) this.build();
    const at = Number(route.at);
    this.at = route.at && Number.isFinite(at) ? at : null;
    if (!route.job) {
      this.pick();
      return;
    }
    if (this.jobId !== route.job) this.begin(route.job);
    else if (this.job) this.draw();
    if (!this.poll) this.follow();
  }

  hide() {
    this.poll = null;
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this.stage?.dispose();
    this.ready = false;
    this.jobId = null;
  }

  follow() {
    this.poll = new Poll(
      () => this.ask(),
      (error) => this.line.report(error),
    );
    this.track(onChange((told) => told.job === this.jobId && this.poll?.wake()));
    this.track(() => this.poll?.stop());
    this.poll.start();
  }

  /** Without a job in the URL: what runs, or else the newest. */
  async pick() {
    fill(this.frame, skeleton(1, 'card'));
    this.jobId = null;
    try {
      const running = await api('GET', '/v1/jobs?state=running&limit=1');
      const found = running.jobs[0] ?? (await api('GET', '/v1/jobs?limit=1')).jobs[0];
      if (found) go({ tab: 'watch', job: found.id }, { replace: true });
      else
        fill(this.frame, unmade('watch', 'Nothing to watch yet', 'Make something, and see it form here from the first step.'));
    } catch (error) {
      fill(this.frame, trouble(error, { retry: () => this.pick() }));
    }
  }

  build() {
    this.ready = true;
    this.line = failing();
    this.frame = h('div.dlp-frame-box');
    fill(this, this.line, this.frame);
    this.stage = new Stage({ choose: () => this.at !== null && this.moment(null) });
    this.strip = new Strip((step) => this.moment(step));
    this.heading = h('h2.dlw-title');
    this.pill = pill();
    this.about = h('span.dlp-dim.dlw-about');
    this.star = button('', {
      icon: 'star',
      kind: 'quiet',
      title: 'Favourite',
      'aria-pressed': 'false',
      onclick: (event) => favourite(this.job, !this.job.favourite, event.currentTarget, () => this.poll?.wake()),
    });
    this.back = button('Back to now', { icon: 'undo', small: true, onclick: () => this.moment(null) });
    this.banner = h('p.dlp-moment', { hidden: true, role: 'status' }, h('span'), this.back);
    this.stage.element.append(this.banner);
    this.buttons = h('div.dlp-actions', { role: 'group', 'aria-label': 'Actions' });
    this.bar = progress(0, 'steps done');
    this.figures = facts();
    this.problem = h('div');
    this.loss = new Chart({ title: 'Loss', height: 76 });
    this.gradient = new Chart({ title: 'Gradient', height: 56 });
    this.iou = new Chart({ title: 'IoU with the truth', height: 64, low: 0, high: 1, log: false, smooth: 0 });
    this.iou.element.hidden = true;
    this.truth = new Truth();
    this.lineage = h('section.dlp-block', { hidden: true }, h('h3', {}, 'Lineage'), h('div'));
    this.files = h('section.dlp-block', { hidden: true });
    this.log = new Log(() => this.poll?.wake());
  }

  parts() {
    const head = h(
      'header.dlw-head',
      {},
      h('div.dlw-name', {}, this.heading, h('div.dlp-row', {}, this.pill, this.about)),
      this.star,
    );
    const now = h('section.dlp-block.dlw-now', {}, this.bar, this.figures, this.buttons);
    const curves = h('section.dlp-block.dlw-curves', {}, this.loss.element, this.gradient.element, this.iou.element);
    const left = h('div.dlw-left', {}, this.stage.element, this.strip.element);
    const right = h(
      'div.dlw-right',
      {},
      head,
      this.problem,
      now,
      this.truth.element,
      curves,
      this.lineage,
      this.files,
      this.log.element,
    );
    return h('div.dlw', {}, left, right);
  }

  begin(id) {
    this.jobId = id;
    Object.assign(this, { job: null, run: null, runAsked: 0, points: [], previews: [], seen: null, buttonsFor: '' });
    fill(
      this.frame,
      h(
        'div.dlw',
        { 'aria-busy': 'true' },
        h('div.dlw-left', {}, skeleton(1, 'card')),
        h('div.dlw-right', {}, skeleton(6)),
      ),
    );
    this.log.reset(id);
    this.poll?.wake();
  }

  async ask() {
    const id = this.jobId;
    const job = await subject(id, this.job?.adopted);
    if (id !== this.jobId) return true;
    if (!job) {
      fill(
        this.frame,
        empty({
          icon: 'search',
          title: 'No such run here',
          text: `There is no job ${id}. It may have been deleted, or be another studio's.`,
          action: button('To the gallery', { onclick: () => go({ tab: 'gallery' }) }),
        }),
      );
      this.job = null;
      return false;
    }
    const changed = this.job?.state !== job.state;
    await Promise.all([this.more(job), this.askRun(job, changed), this.log.ask(job)]);
    if (id !== this.jobId) return true;
    const first = !this.job;
    this.job = job;
    if (first) fill(this.frame, this.parts());
    this.draw();
    return !isTerminal(job.state);
  }

  /** The figures since the last step seen, and the previews if there is a new one. */
  async more(job) {
    const key = `${job.step}/${job.state}/${job.preview}`;
    if (this.seen === key) return;
    const last = this.points.at(-1)?.step;
    const none = (nothing) => (error) => (job.adopted ? nothing : Promise.reject(error));
    const [metrics, previews] = await Promise.all([
      api('GET', `/v1/jobs/${job.id}/metrics${query({ after: last })}`).catch(none({ points: [] })),
      api('GET', `/v1/jobs/${job.id}/previews`).catch(none(previewsOf({ files: job.artifacts }))),
    ]);
    if (job.id !== this.jobId) return;
    // a run that rolled back or was resumed measures some steps again: the newer figure counts
    const fresh = metrics.points ?? [];
    const from = fresh[0]?.step ?? Infinity;
    this.points = [...this.points.filter((one) => one.step < from), ...fresh];
    this.previews = previews;
    this.seen = key;
  }

  async askRun(job, changed) {
    if (!changed && Date.now() - this.runAsked < RUN_AGAIN_MS) return;
    this.runAsked = Date.now();
    const run = await api('GET', `/v1/runs/${runId(job)}`).catch(() => null);
    if (job.id === this.jobId) this.run = run ?? this.run;
  }

  moment(step) {
    go({ tab: 'watch', job: this.jobId, at: step }, { replace: true });
  }

  draw() {
    const { job } = this;
    const at = this.previews.find((one) => one.step === this.at) ?? null;
    say(this.heading, job.prompt);
    this.pill.show(job.state);
    say(
      this.about,
      [kindName(job.kind), job.recipe, `seed ${job.seed}`, job.negative && `without ${job.negative}`]
        .filter(Boolean)
        .join(' · '),
    );
    this.star.setAttribute('aria-pressed', String(Boolean(job.favourite)));
    this.stage.show(job, at, this.previews.at(-1) ?? null);
    this.strip.show(this.previews, at ? at.step : null);
    this.banner.hidden = !at;
    if (at) say(this.banner.firstChild, `Step ${at.step}${job.total ? ` of ${job.total}` : ''}`);
    this.bar.hidden = job.state === 'succeeded' || job.state === 'queued';
    this.bar.show(job.state === 'running' && !job.step ? null : (job.progress ?? 0));
    this.figures.show(this.now(job));
    this.curves(at);
    this.truth.show(job, at ?? this.previews.at(-1) ?? null, this.points);
    this.acts(job);
    this.trouble(job);
    this.family(job);
    files(this.files, job, this.run);
    document.dispatchEvent(
      new CustomEvent('dl-watching', { detail: { id: job.id, state: job.state, progress: job.progress } }),
    );
  }

  now(job) {
    if (job.state === 'queued')
      return [
        ['Queue', standing(job)],
        ['Lane', job.lane],
      ];
    const time = duration(elapsed(job) ?? job.seconds);
    const steps = [
      job.state === 'running' ? capital(job.stage || 'step') : 'Steps',
      job.total ? `${job.step ?? 0} / ${job.total}` : String(job.step ?? 0),
    ];
    if (job.state === 'running')
      return [
        steps,
        ['Speed', job.it_per_s ? `${figure(job.it_per_s)} it/s` : 'measuring'],
        ['Left', eta(job.eta_s)],
        ['Running for', time || '–'],
      ];
    const made = report(this.run);
    if (Number.isFinite(job.stopped_at)) steps.splice(0, 2, 'Kept at step', `${job.stopped_at} of ${job.total}`);
    return [steps, ['Took', time || '–'], ...made, ...(job.attempt > 1 ? [['Attempts', job.attempt]] : [])];
  }

  curves(at) {
    const line = (name) => [
      { name, points: this.points.filter((one) => Number.isFinite(one[name])).map((one) => [one.step, one[name]]) },
    ];
    this.loss.set(line('loss'));
    this.gradient.set(line('grad_rms'));
    const iou = line('truth_iou');
    this.iou.element.hidden = iou[0].points.length === 0;
    this.iou.set(iou);
    for (const chart of [this.loss, this.gradient, this.iou]) chart.mark(at ? at.step : null);
  }

  acts(job) {
    const key = [job.id, job.state, job.step > 0, this.run?.checkpoints?.join()].join();
    if (this.buttonsFor === key) return;
    this.buttonsFor = key;
    const more = isTerminal(job.state)
      ? [
          button('Use these settings', {
            icon: 'settings',
            kind: 'quiet',
            onclick: () => go(Object.fromEntries(new URLSearchParams(reuse(job).slice(2)))),
          }),
          button('', {
            icon: 'trash',
            kind: 'quiet',
            title: 'Delete',
            onclick: (event) =>
              remove(
                job,
                event.currentTarget,
                () => go({ tab: 'gallery' }),
                () => go({ tab: 'watch', job: job.id }),
              ),
          }),
        ]
      : [];
    fill(
      this.buttons,
      actions(job, this.run, () => this.poll?.wake()),
      more,
    );
  }

  trouble(job) {
    const key = job.error && ['failed', 'interrupted'].includes(job.state) ? JSON.stringify(job.error) : '';
    if (this.problem.dataset.key === key) return;
    this.problem.dataset.key = key;
    fill(this.problem, key && this.log.problem(job, this.run));
  }

  family(job) {
    const root = this.run?.lineage;
    const alone = !root || (!root.children?.length && root.id === runId(job));
    this.lineage.hidden = alone;
    const key = alone ? '' : JSON.stringify(root);
    if (this.lineage.dataset.key === key) return;
    this.lineage.dataset.key = key;
    if (!alone)
      fill(
        this.lineage.lastChild,
        tree(root, runId(job), (id) => go({ tab: 'watch', job: id })),
      );
  }
}

const capital = (word) => word.charAt(0).toUpperCase() + word.slice(1);

customElements.define('dl-watch', Watch);
