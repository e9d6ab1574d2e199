// SPDX-License-Identifier: Apache-2.0
// <dl-queue>: what runs, what waits and in which order, what has ended; /?tab=queue&state=failed&q=words.

import { act, keyed, say, unmade } from './panels/parts.js';
import { Drag } from './panels/drag.js';
import { folded, neighbour } from './panels/order.js';
import { onChange, Poll } from './panels/poll.js';
import { endedRow, runningRow, waitingRow } from './panels/rows.js';
import {
  api,
  button,
  confirm,
  empty,
  fill,
  freshKey,
  go,
  h,
  icon,
  many,
  Panel,
  query,
  segmented,
  skeleton,
  trouble,
} from './ui.js';

const MOST_WAITING = 1000;
const PAGE = 200;
const FILTERS = [
  ['', 'Active'],
  ['failed', 'Failed'],
  ['succeeded', 'Finished'],
  ['cancelled', 'Cancelled'],
  ['all', 'All'],
];
const STATES = { failed: 'failed,interrupted', succeeded: 'succeeded', cancelled: 'cancelled', all: '' };
const RECENT = 6;

class Queue extends Panel {
  static tab = 'queue';

  show(route) {
    if (!this.ready) this.build();
    const filter = FILTERS.some(([key]) => key === route.state) ? route.state : '';
    const text = route.q ?? '';
    if (filter !== this.filter || text !== this.text) {
      Object.assign(this, { filter, text, rows: [], cursor: null, asked: false });
      this.filters.value = filter;
      if (document.activeElement !== this.search) this.search.value = text;
      this.dress();
    }
    if (this.poll) this.poll.wake();
    else this.follow();
  }

  hide() {
    this.poll = null;
  }

  follow() {
    this.poll = new Poll(
      () => this.ask(),
      (error) => this.fail(error),
    );
    this.track(onChange(() => this.poll?.wake()));
    this.track(() => this.poll?.stop());
    this.poll.start();
  }

  build() {
    Object.assign(this, { ready: true, open: new Set(), chain: Promise.resolve(), moving: 0, said: 0 });
    this.counts = h('span.dlp-dim');
    this.filters = segmented('Which jobs', FILTERS, '', (state) => go({ tab: 'queue', state, q: this.text }));
    this.search = h('input.dl-input.dlp-search', {
      type: 'search',
      placeholder: 'Search prompts',
      'aria-label': 'Search prompts',
    });
    this.search.addEventListener('input', () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(
        () => go({ tab: 'queue', state: this.filter, q: this.search.value.trim() }, { replace: true }),
        250,
      );
    });
    this.pauser = button('Pause', { icon: 'pause', onclick: (event) => this.pause(event.currentTarget) });
    this.retryAll = button('Retry failed', {
      icon: 'retry',
      kind: 'quiet',
      onclick: (event) => this.each('failed,interrupted', 'retry', event.currentTarget),
    });
    this.cancelAll = button('Cancel all', {
      icon: 'close',
      kind: 'quiet',
      onclick: (event) => this.each('queued,running', 'cancel', event.currentTarget),
    });
    this.paused = h(
      'p.dl-notice.warn',
      { role: 'status', hidden: true },
      'The queue is paused. What runs goes on; nothing new starts.',
    );
    this.notice = h('div');
    this.spoken = h('p.dl-sr', { 'aria-live': 'polite' });
    this.run = h('ul.dlq-list');
    this.wait = h('ol.dlq-list.dlq-sort', { 'aria-label': 'Waiting, in order' });
    this.background = h('ol.dlq-list.dlq-sort', { 'aria-label': 'In the background lane, in order' });
    this.ended = h('ul.dlq-list');
    this.sections = {
      run: section('Running', this.run),
      wait: section('Waiting', this.wait),
      background: section('Background', this.background, 'Runs when nothing else waits'),
      ended: section('Recently ended', this.ended),
    };
    this.more = button('Load more', { onclick: (event) => act(event.currentTarget, () => this.page()) });
    this.body = h('div.dlq-body');
    this.drag = new Drag([this.wait, this.background], {
      dropped: (row, list) => this.dropped(row, list),
      busy: () => this.poll?.wake(),
    });
    fill(
      this,
      h(
        'header.dlp-bar',
        {},
        h('h2', {}, 'Queue'),
        this.counts,
        h('span.dlp-gap'),
        this.pauser,
        this.retryAll,
        this.cancelAll,
      ),
      h('div.dlp-bar.dlp-filters', {}, this.filters, this.search),
      this.paused,
      this.notice,
      this.body,
      this.spoken,
    );
    fill(this.body, skeleton(5));
  }

  /** The sections that a filter has. */
  dress() {
    fill(this.body, skeleton(5));
    const { run, wait, background, ended } = this.sections;
    say(ended.querySelector('h3'), this.filter ? FILTERS.find(([key]) => key === this.filter)[1] : 'Recently ended');
    this.places = this.filter ? [ended] : [run, wait, background, ended];
    this.ended.replaceChildren();
  }

  async ask() {
    if (this.drag.held || this.moving > 0) return true; // what the studio says now is old in a moment
    const { filter, text, said } = this;
    const system = await api('GET', '/v1/system');
    this.system(system);
    if (filter) {
      const first = await api('GET', `/v1/jobs${query({ state: STATES[filter], q: text, limit: 50 })}`);
      if (filter !== this.filter || text !== this.text) return true;
      this.merge(first);
      this.draw([], [], this.rows);
      return false;
    }
    const [running, waiting, ended] = await Promise.all([
      api('GET', `/v1/jobs${query({ state: 'running', q: text, limit: PAGE })}`),
      this.all('queued', text, system.jobs?.queued ?? 0),
      api('GET', `/v1/jobs${query({ state: 'succeeded,failed,cancelled,interrupted', q: text, limit: RECENT })}`),
    ]);
    if (filter !== this.filter || text !== this.text || this.drag.held || said !== this.said) return true;
    this.draw(running.jobs, waiting, ended.jobs);
    return running.jobs.length > 0;
  }

  /** Everything that waits: it is sorted here. A long line is asked for anew only every few seconds. */
  async all(state, text, count) {
    if (count > PAGE && this.line?.text === text && Date.now() - this.line.at < 5000) return this.line.jobs;
    const jobs = [];
    let cursor = null;
    do {
      const page = await api('GET', `/v1/jobs${query({ state, q: text, limit: PAGE, cursor })}`);
      jobs.push(...page.jobs);
      cursor = page.next;
    } while (cursor && jobs.length < MOST_WAITING);
    jobs.sort((a, b) => (a.position ?? Infinity) - (b.position ?? Infinity));
    this.line = { text, at: Date.now(), jobs };
    return jobs;
  }

  merge(first) {
    const fresh = new Map(first.jobs.map((job) => [job.id, job]));
    const oldest = first.jobs.at(-1);
    const tail = this.asked
      ? this.rows.slice(this.rows.findIndex((job) => job.id === oldest?.id) + 1).filter((job) => !fresh.has(job.id))
      : [];
    this.rows = [...first.jobs, ...(oldest && this.rows.some((job) => job.id === oldest.id) ? tail : [])];
    if (!this.asked) this.cursor = first.next;
    this.asked = true;
  }

  async page() {
    const { filter, text } = this;
    const next = await api(
      'GET',
      `/v1/jobs${query({ state: STATES[filter], q: text, limit: 50, cursor: this.cursor })}`,
    );
    if (filter !== this.filter || text !== this.text) return;
    this.rows.push(...next.jobs);
    this.cursor = next.next;
    this.draw([], [], this.rows);
  }

  system({ jobs = {}, paused = false }) {
    const told = [jobs.running && `${jobs.running} running`, jobs.queued && `${jobs.queued} waiting`]
      .filter(Boolean)
      .join(', ');
    say(this.counts, told || 'nothing runs or waits');
    this.paused.hidden = !paused;
    this.isPaused = paused;
    if (this.pauser.lastChild.textContent !== (paused ? 'Resume' : 'Pause'))
      fill(this.pauser, icon(paused ? 'play' : 'pause'), paused ? 'Resume' : 'Pause');
    this.pauser.classList.toggle('primary', paused);
    this.retryAll.hidden = !(jobs.failed || jobs.interrupted);
    this.cancelAll.hidden = !(jobs.running || jobs.queued);
    this.failed = (jobs.failed ?? 0) + (jobs.interrupted ?? 0);
    this.active = (jobs.running ?? 0) + (jobs.queued ?? 0);
  }

  draw(running, waiting, ended) {
    const done = () => {
      this.line = null;
      this.poll?.wake();
    };
    fill(this.notice);
    const key = (job) => job.id;
    keyed(this.run, running, { key, make: (job) => runningRow(job, done), show: (row, job) => row.show(job) });
    const lanes = {
      normal: folded(waiting.filter((job) => job.lane !== 'background')),
      background: folded(waiting.filter((job) => job.lane === 'background')),
    };
    const tools = {
      done,
      move: (jobs, to) => this.move(jobs, to),
      opened: (batch) => this.open.has(batch),
      toggle: (batch) => this.toggle(batch),
    };
    for (const [list, units] of [
      [this.wait, lanes.normal],
      [this.background, lanes.background],
    ]) {
      keyed(list, units, {
        key: (unit) => unit.batch ?? unit.jobs[0].id,
        make: (unit) => waitingRow(unit, tools),
        show: (row, unit, place) => row.show(unit, place, units.length),
      });
    }
    keyed(this.ended, ended, { key, make: (job) => endedRow(job, done), show: (row, job) => row.show(job) });
    this.sections.run.hidden = running.length === 0;
    this.sections.wait.hidden = lanes.normal.length === 0 && lanes.background.length === 0;
    this.sections.background.hidden =
      this.sections.wait.hidden || (lanes.background.length === 0 && waiting.length < 2);
    this.sections.ended.hidden = ended.length === 0;
    const nothing = running.length + waiting.length + ended.length === 0;
    if (nothing) fill(this.body, this.nothing());
    else if (this.body.firstChild !== this.places[0]) fill(this.body, this.places, this.more);
    this.more.hidden = !this.filter || !this.cursor;
  }

  nothing() {
    if (this.text)
      return empty({ icon: 'search', title: 'Nothing found', text: `No job's prompt holds “${this.text}”.` });
    if (this.filter === 'failed')
      return empty({
        icon: 'check',
        title: 'Nothing failed',
        text: 'What fails is kept here with its reason, and can be retried.',
      });
    if (this.filter) return empty({ icon: 'queue', title: 'None yet' });
    return unmade('queue', 'The queue is empty', 'Jobs wait here, run one after the other, and go on after a restart.');
  }

  toggle(batch) {
    if (!this.open.delete(batch)) this.open.add(batch);
    this.poll?.wake();
  }

  /** A row lies elsewhere: its jobs are told to the studio one by one, the first beside its neighbour. */
  dropped(row, list) {
    const rows = [...list.children];
    const beside = neighbour(
      rows.map((one) => one.dataset.key),
      row.dataset.key,
    );
    const ids = row.dataset.ids.split(',');
    const lane = list === this.background ? 'background' : 'normal';
    const other =
      beside && rows.find((one) => one.dataset.key === (beside.before ?? beside.after)).dataset.ids.split(',');
    const first = !beside ? { lane } : beside.before ? { before: other[0] } : { after: other.at(-1) };
    say(
      this.spoken,
      `Place ${rows.indexOf(row) + 1} of ${rows.length}${lane === 'background' ? ' in the background lane' : ''}`,
    );
    this.send(ids.map((id, i) => [id, i === 0 ? first : { after: ids[i - 1] }]));
  }

  move(jobs, to) {
    this.send(jobs.map((job) => [job.id, to]));
  }

  /** Moves in turn, never two at once: the last word is the last one said. */
  send(moves) {
    this.moving += 1;
    this.said += 1;
    for (const [id, to] of moves) {
      this.chain = this.chain.then(() => act(null, () => api('POST', `/v1/jobs/${id}/move`, to)));
    }
    this.chain = this.chain.then(() => {
      this.moving -= 1;
      this.line = null;
      this.poll?.wake();
    });
  }

  async pause(sender) {
    await act(sender, () => api('POST', `/v1/queue/${this.isPaused ? 'resume' : 'pause'}`));
    this.poll?.wake();
  }

  /** One verb for all in some states; asked first, since it is many. */
  async each(states, verb, sender) {
    const cancels = verb === 'cancel';
    const title = cancels ? `Cancel ${many(this.active, 'job')}?` : `Retry ${many(this.failed, 'job')}?`;
    const text = cancels
      ? 'What runs stops with a checkpoint; all can be retried.'
      : 'Each goes on from its newest checkpoint.';
    if (!(await confirm(title, text, { yes: cancels ? 'Cancel all' : 'Retry all', danger: cancels }))) return;
    await act(sender, async () => {
      for (const state of states.split(',')) {
        for (const job of await this.every(state))
          await api('POST', `/v1/jobs/${job.id}/${verb}`, {}, { key: freshKey() });
      }
    });
    this.line = null;
    this.poll?.wake();
  }

  async every(state) {
    const jobs = [];
    let cursor = null;
    do {
      const page = await api('GET', `/v1/jobs${query({ state, limit: PAGE, cursor })}`);
      jobs.push(...page.jobs);
      cursor = page.next;
    } while (cursor);
    return jobs;
  }

  fail(error) {
    if (!error) fill(this.notice);
    else if (error.status !== 0 || !this.asked) fill(this.notice, trouble(error, { retry: () => this.poll?.wake() }));
  }
}

function section(title, list, note = '') {
  return h(
    'section.dlq-section',
    { hidden: true },
    h('header', {}, h('h3', {}, title), note && h('span.dlp-dim', {}, note)),
    list,
  );
}

customElements.define('dl-queue', Queue);
