// SPDX-License-Identifier: Apache-2.0
// The rows of the queue: one that runs, one that waits (or a batch of them), one that has ended.

import { ago, button, figure, h, href, icon, progress } from '../ui.js';
import { cancel, remove, retry, stopAndKeep } from './actions.js';
import { nameOf } from './batch.js';
import { keyed, pill, say, side } from './parts.js';
import { eta, standing } from './words.js';

const PRIORITIES = [
  [10, 'High'],
  [0, 'Normal'],
  [-10, 'Low'],
];

const watch = (job) => href({ tab: 'watch', job: job.id });

const about = (job) =>
  [job.recipe, `seed ${job.seed}`, nameOf(job, ['recipe', 'seed', 'prompt'])].filter(Boolean).join(' · ');

/** What runs: its newest picture, how far, how long. */
export function runningRow(job, done) {
  const row = h('li.dlq-run');
  const picture = side('');
  const bar = progress(0, 'steps done');
  const words = h('span.dlp-dim');
  const link = h('a.dlq-prompt', { href: watch(job) });
  let now = job;
  const by = (work) => (event) => work(now, event.currentTarget, done);
  row.append(
    h('a.dlq-thumb', { href: watch(job), tabindex: '-1', 'aria-hidden': 'true' }, picture),
    h('div.dlq-main', {}, link, words, bar),
    h(
      'div.dlp-row',
      {},
      button('Keep', {
        icon: 'check',
        small: true,
        title: 'Stop at the next step and keep what is there',
        onclick: by(stopAndKeep),
      }),
      button('', { icon: 'close', kind: 'quiet', small: true, title: 'Cancel', onclick: by(cancel) }),
    ),
  );
  row.show = (fresh) => {
    now = fresh;
    say(link, fresh.prompt);
    say(
      words,
      [standing(fresh), fresh.it_per_s && `${figure(fresh.it_per_s)} it/s`, about(fresh)].filter(Boolean).join(' · '),
    );
    bar.show(fresh.step ? fresh.progress : null);
    picture.look(fresh.preview);
  };
  return row;
}

function handle() {
  return h('button.dlp-handle', { type: 'button', title: 'Drag, or move with the arrow keys' }, icon('drag'));
}

/** A select that says a job's priority; others than the three named are kept as they are. */
function priority(change) {
  const select = h('select.dl-input.dlq-priority', { 'aria-label': 'Priority' });
  select.addEventListener('change', () => change(Number(select.value)));
  select.show = (value) => {
    const known = PRIORITIES.some(([one]) => one === value);
    const wanted = known ? PRIORITIES : [...PRIORITIES, [value, String(value)]].sort((a, b) => b[0] - a[0]);
    if (select.options.length !== wanted.length)
      select.replaceChildren(...wanted.map(([one, name]) => h('option', { value: one }, name)));
    if (document.activeElement !== select) select.value = String(value);
  };
  return select;
}

/** One that waits, or a whole batch folded into one; `unit` is {batch, jobs}. */
export function waitingRow(unit, { done, move, opened, toggle }) {
  const row = h('li.dlq-wait');
  const grip = handle();
  const place = h('span.dlq-place');
  const prompt = h('a.dlq-prompt');
  const words = h('span.dlp-dim');
  const when = h('span.dlq-when.dlp-dim');
  const rank = priority((value) => move(now.jobs, { priority: value }));
  const lane = button('Background', {
    kind: 'quiet dlq-lane',
    small: true,
    onclick: () => move(now.jobs, { lane: now.jobs[0].lane === 'background' ? 'normal' : 'background' }),
  });
  const fold = h(
    'button.dlq-fold',
    { type: 'button', 'aria-expanded': 'false', hidden: true, onclick: () => toggle(now.batch) },
    icon('right', 12),
    h('span'),
  );
  const end = button('', {
    icon: 'close',
    kind: 'quiet',
    small: true,
    title: 'Cancel',
    onclick: (event) => cancelAll(now.jobs, event.currentTarget, done),
  });
  const inside = h('ol.dlq-inside', { hidden: true });
  let now = unit;
  row.append(
    h(
      'div.dlq-line',
      {},
      grip,
      place,
      h('div.dlq-main', {}, prompt, h('div.dlp-row.dlq-more', {}, fold, words)),
      when,
      rank,
      lane,
      end,
    ),
    inside,
  );
  row.show = (fresh, at, of) => {
    now = fresh;
    const [job] = fresh.jobs;
    const many = fresh.jobs.length > 1;
    row.dataset.ids = fresh.jobs.map((one) => one.id).join();
    say(prompt, job.prompt);
    prompt.href = watch(job);
    say(place, Number.isFinite(job.position) ? String(job.position) : '–');
    say(words, many ? span(fresh.jobs) : about(job));
    say(when, Number.isFinite(job.eta_s) ? `in ${eta(job.eta_s)}` : '');
    fold.hidden = !many;
    say(fold.lastChild, `batch of ${fresh.jobs.length}`);
    const open = many && opened(fresh.batch);
    fold.setAttribute('aria-expanded', String(open));
    inside.hidden = !open;
    rank.show(job.priority ?? 0);
    const back = job.lane === 'background';
    say(lane, back ? 'To front' : 'Background');
    lane.title = back ? 'Run it in the normal lane' : 'Run it when nothing else waits';
    grip.setAttribute('aria-label', `Move “${job.prompt}”, ${at + 1} of ${of}. Arrow keys move.`);
    keyed(inside, open ? fresh.jobs : [], {
      key: (one) => one.id,
      make: (one) => insideRow(one, done),
      show: (element, one) => element.show(one),
    });
  };
  return row;
}

const span = (jobs) =>
  jobs
    .slice(0, 4)
    .map((job) => nameOf(job))
    .join(', ') + (jobs.length > 4 ? ' …' : '');

async function cancelAll(jobs, sender, done) {
  if (jobs.length === 1) await cancel(jobs[0], sender, done);
  else await cancel({ ...jobs[0], each: jobs }, sender, done);
}

function insideRow(job, done) {
  const words = h('a.dlp-dim');
  const when = h('span.dlq-when.dlp-dim');
  let now = job;
  const row = h(
    'li.dlq-line',
    {},
    words,
    when,
    button('', {
      icon: 'close',
      kind: 'quiet',
      small: true,
      title: 'Cancel',
      onclick: (event) => cancel(now, event.currentTarget, done),
    }),
  );
  row.show = (fresh) => {
    now = fresh;
    words.href = watch(fresh);
    say(words, nameOf(fresh) || `seed ${fresh.seed}`);
    say(when, standing(fresh));
  };
  return row;
}

/** One that has ended, and what can be done about it. */
export function endedRow(job, done) {
  const row = h('li.dlq-end');
  const picture = side('');
  const link = h('a.dlq-prompt', { href: watch(job) });
  const mark = pill();
  const words = h('span.dlp-dim');
  const when = h('span.dlq-when.dlp-dim');
  let now = job;
  const again = button('Retry', {
    icon: 'retry',
    small: true,
    onclick: (event) => retry(now, event.currentTarget, done),
  });
  row.append(
    h('a.dlq-thumb', { href: watch(job), tabindex: '-1', 'aria-hidden': 'true' }, picture),
    h('div.dlq-main', {}, link, h('div.dlp-row.dlq-more', {}, mark, words)),
    when,
    h(
      'div.dlp-row',
      {},
      again,
      button('', {
        icon: 'trash',
        kind: 'quiet',
        small: true,
        title: 'Delete',
        onclick: (event) => remove(now, event.currentTarget, done),
      }),
    ),
  );
  row.show = (fresh) => {
    now = fresh;
    say(link, fresh.prompt);
    mark.show(fresh.state);
    say(words, fresh.state === 'succeeded' ? about(fresh) : standing(fresh));
    say(when, ago(fresh.finished));
    again.hidden = !['failed', 'cancelled', 'interrupted'].includes(fresh.state);
    picture.look(fresh.preview);
  };
  return row;
}
