// SPDX-License-Identifier: Apache-2.0
// What there is under an id: a job of the queue, or a run folder that no queue knows (made by the command line).

import { api } from '../ui.js';

const STEP = /^previews\/step_(\d+)\.png$/;

/** A run as the panels know jobs. What only the queue can do is not offered for it. */
function asJob(run) {
  const files = run.files ?? [];
  const previews = previewsOf(run);
  return {
    id: run.id,
    run: run.folder,
    links: { run: `/v1/runs/${run.id}` },
    kind: 'dream',
    state: run.state,
    stage: '',
    step: run.step ?? 0,
    total: run.total ?? run.step ?? 0,
    progress: run.state === 'succeeded' ? 1 : 0,
    it_per_s: null,
    eta_s: null,
    position: null,
    attempt: 1,
    lane: 'normal',
    prompt: run.prompt,
    negative: run.negative ?? '',
    recipe: run.recipe,
    seed: run.seed,
    values: {},
    batch: null,
    parent: run.parent,
    folder: run.folder,
    created: run.created,
    started: null,
    finished: null,
    seconds: run.seconds,
    stopped_at: null,
    error: null,
    favourite: run.favourite,
    preview: previews.at(-1)?.url ?? run.poster,
    live: null,
    artifacts: files,
    adopted: true,
  };
}

export function previewsOf(run) {
  const found = (run.files ?? []).map((one) => ({ step: Number(one.name.match(STEP)?.[1]), url: one.url }));
  return found.filter((one) => Number.isFinite(one.step)).sort((a, b) => a.step - b.step);
}

/** The job, or null where neither queue nor folder has it; `adopted`: it is known that the queue has not. */
export async function subject(id, adopted = false) {
  const missing = (error) => (error.status === 404 ? null : Promise.reject(error));
  const job = adopted ? null : await api('GET', `/v1/jobs/${encodeURIComponent(id)}`).catch(missing);
  if (job) return job;
  const run = await api('GET', `/v1/runs/${encodeURIComponent(id)}`).catch(missing);
  return run && asJob(run);
}
