// SPDX-License-Identifier: Apache-2.0
// What may be done with a job, by its state; each a button that says what it does.

import { api, button, confirm, copy, dialog, field, freshKey, go, h, href, line, plain, query, toast } from '../ui.js';
import { act } from './parts.js';
import { isTerminal, readSettings, runId } from './words.js';

const post = (job, verb, body = {}) => api('POST', `/v1/jobs/${job.id}/${verb}`, body, { key: freshKey() });

/** Goes to the child that an action made. */
function follow(child) {
  go({ tab: 'watch', job: child.id });
  toast('Started as a run of its own; this one stays as it is.', { kind: 'good' });
}

export async function stopAndKeep(job, sender, done) {
  if (await act(sender, () => post(job, 'cancel', { keep: true }), 'Stopping at the next step; what is there is kept.'))
    done();
}

/** One job, or those of a batch in `each`. */
export async function cancel(job, sender, done) {
  const all = job.each ?? [job];
  const running =
    'It stops with a checkpoint and can be retried from there. To have a finished model of it, stop and keep.';
  const text = job.state === 'running' ? running : all.length > 1 ? 'None of these has begun.' : 'It has not begun.';
  const title = all.length > 1 ? `Cancel these ${all.length} jobs?` : 'Cancel this job?';
  if (!(await confirm(title, text, { yes: all.length > 1 ? 'Cancel all' : 'Cancel job', danger: true }))) return;
  const ended = await act(sender, async () => {
    for (const one of all) await post(one, 'cancel', { keep: false });
  });
  if (ended) done();
}

export async function retry(job, sender, done) {
  if (await act(sender, () => post(job, 'retry'), 'Back in the queue; it goes on from its newest checkpoint.')) done();
}

export async function favourite(job, on, sender, done) {
  if (await act(sender, () => post(job, 'favourite', { on }))) done();
}

/** To the trash, with a way back. `done` is told of both. */
export async function remove(job, sender, done, restored = done) {
  if (!(await act(sender, () => api('DELETE', `/v1/jobs/${job.id}`)))) return false;
  done();
  const undo = async () => {
    if (await act(null, () => post(job, 'restore'), 'Restored.')) restored();
  };
  toast(`Deleted “${short(job.prompt)}”.`, { action: { label: 'Undo', onclick: undo }, seconds: 6 });
  return true;
}

/** The same request with another seed; of runs that were asked for by themselves. */
export async function again(job, sender) {
  const seed = Math.floor(Math.random() * 2 ** 31);
  const child = await act(sender, async () => {
    const { kind, request } = await api('GET', `/v1/jobs/${job.id}`);
    return api('POST', '/v1/jobs', { ...request, kind, count: 1, seed }, { key: freshKey() });
  });
  if (child?.id) {
    toast(`Started again with seed ${seed}.`, {
      kind: 'good',
      action: { label: 'Watch', onclick: () => go({ tab: 'watch', job: child.id }) },
    });
  }
}

/** Where Create is filled with what made this run. */
export const reuse = (job) =>
  href({ tab: 'create', from: job.id, prompt: job.prompt, negative: job.negative, recipe: job.recipe, seed: job.seed });

const short = (text, most = 40) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** Continue: how many steps more. */
function continueDialog(job) {
  const steps = h('input.dl-input', {
    type: 'number',
    min: 1,
    max: 1_000_000,
    step: 1,
    value: job.total || 100,
    required: true,
  });
  const asked = field('Steps more', steps, {
    hint: `It stands at step ${job.stopped_at ?? job.step}. The same settings go on; the parent is not touched.`,
    wide: true,
  });
  ask('Continue this run', [asked], 'Continue', () => post(job, 'continue', { steps: steps.valueAsNumber }), {
    steps: asked,
  });
}

const RULE = 'stages.0.terms.0.system.kind';

/** Branch: from which checkpoint, with which prompt, negative, seed, rule and settings. */
async function branchDialog(job, run) {
  const told = await api('GET', `/v1/settings${query({ recipe: job.recipe })}`).catch(() => ({ settings: [] }));
  const rules = told.settings.find((one) => /system(\.kind)?$/.test(one.path) && one.choices?.length);
  const points = [...(run?.checkpoints ?? [])].sort((a, b) => b - a);
  const from = h(
    'select.dl-input',
    {},
    points.length
      ? points.map((step) => h('option', { value: step }, `step ${step}`))
      : h('option', { value: '' }, 'the newest checkpoint'),
  );
  const steps = h('input.dl-input', { type: 'number', min: 1, max: 10_000_000, step: 1 });
  const left = () => {
    const remaining = (job.total ?? 0) - Number(from.value || job.step);
    steps.value = String(remaining > 0 ? remaining : Math.max(10, Math.round((job.total || 100) / 2)));
  };
  from.addEventListener('change', left);
  left();
  const prompt = h('textarea.dl-input', { rows: 2, maxlength: 1000, value: job.prompt });
  const negative = h('input.dl-input', { type: 'text', maxlength: 1000, value: job.negative ?? '' });
  const seed = h('input.dl-input', { type: 'number', min: 0, max: 2 ** 31 - 1, value: job.seed });
  const rule =
    rules &&
    h(
      'select.dl-input',
      {},
      h('option', { value: '' }, 'as it is'),
      rules.choices.map((one) => h('option', { value: one }, one)),
    );
  const more = h('textarea.dl-input.mono', {
    rows: 2,
    placeholder: 'stages.0.terms.0.system.cfg=7',
    spellcheck: 'false',
  });
  const parts = {
    step: field('From', from),
    steps: field('Steps from there', steps),
    seed: field('Seed', seed),
    ...(rule ? { rule: field('Rule', rule) } : {}),
    prompt: field('Prompt', prompt, { wide: true }),
    negative: field('Negative prompt', negative, { wide: true }),
    settings: field('Settings', more, {
      hint: 'One a line, path=value. Only what the steps to come depend on may change.',
      wide: true,
    }),
  };
  const work = () => {
    const settings = readSettings(more.value);
    if (rule?.value) settings[rules.path ?? RULE] = rule.value;
    const body = { settings, steps: steps.valueAsNumber };
    if (from.value) body.step = Number(from.value);
    if (prompt.value.trim() !== job.prompt) body.prompt = prompt.value.trim();
    if (negative.value.trim() !== (job.negative ?? '')) body.negative = negative.value.trim();
    if (seed.valueAsNumber !== job.seed) body.seed = seed.valueAsNumber;
    return post(job, 'branch', body);
  };
  ask('Branch from this run', Object.values(parts), 'Branch', work, parts);
}

/** Says each error of a field beside it; false: none of them is about a field that is shown. */
export function complain(error, byName) {
  const found = (error.fields ?? []).map(({ loc, msg }) => [loc.split('.').find((part) => byName[part]), loc, msg]);
  for (const [name, loc, msg] of found)
    if (name) byName[name].complain(name === 'settings' ? `${loc.replace(/^.*settings\./, '')}: ${plain(msg)}` : plain(msg));
  return found.length > 0 && found.every(([name]) => name);
}

/** A dialog that asks the studio for a child job and shows what it will not have beside the field. */
function ask(title, fields, verb, work, byName) {
  const trouble = h('p.dl-error', { role: 'alert' });
  const go_ = button(verb, { kind: 'primary', onclick: () => send() });
  const send = async () => {
    trouble.textContent = '';
    Object.values(byName).forEach((one) => one.complain(''));
    go_.disabled = true;
    try {
      const child = await work();
      box.close();
      follow(child);
    } catch (error) {
      go_.disabled = false;
      if (!complain(error, byName)) trouble.textContent = line(error);
    }
  };
  const body = h('form.dlp-form', { onsubmit: (event) => (event.preventDefault(), send()) }, fields, trouble);
  const box = dialog({ title, body, actions: [button('Close', { onclick: () => box.close() }), go_] });
  fields[0].querySelector('input, select, textarea')?.focus();
}

/** The row of buttons for a job; made again when its state changes, so that no button lies. */
export function actions(job, run, done) {
  const over = isTerminal(job.state);
  const kept = over && (job.state === 'succeeded' || job.step > 0);
  const trained = job.kind !== 'export' && !job.adopted;
  const by = (work) => (event) => work(job, event.currentTarget, done);
  const list = [];
  if (job.state === 'running' && trained)
    list.push(
      button('Stop and keep', {
        icon: 'check',
        kind: 'primary',
        onclick: by(stopAndKeep),
        title: 'Stop at the next step and export what is there',
      }),
    );
  if (['failed', 'cancelled', 'interrupted'].includes(job.state))
    list.push(
      button('Retry', {
        icon: 'retry',
        kind: 'primary',
        onclick: by(retry),
        title: 'Go on from the newest checkpoint',
      }),
    );
  if (kept && trained) {
    list.push(button('Continue', { icon: 'play', onclick: () => continueDialog(job) }));
    list.push(button('Branch', { icon: 'branch', onclick: () => branchDialog(job, run) }));
  }
  if (job.state === 'succeeded')
    list.push(button('Export', { icon: 'export', onclick: () => go({ tab: 'export', job: runId(job) }) }));
  if (!over) list.push(button('Cancel', { icon: 'close', kind: 'danger', onclick: by(cancel) }));
  if (job.folder)
    list.push(
      button('Copy path', {
        icon: 'copy',
        kind: 'quiet',
        title: job.folder,
        onclick: () => copy(job.folder, 'Folder path copied'),
      }),
    );
  return list;
}
