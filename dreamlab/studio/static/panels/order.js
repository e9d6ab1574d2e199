// SPDX-License-Identifier: Apache-2.0
// Where a dragged row lands; no DOM, so that node can test it.

/** What POST /v1/jobs/ID/move is told for `id` in its new place: its neighbour, before or after. */
export function neighbour(ids, id) {
  const place = ids.indexOf(id);
  if (place < 0 || ids.length < 2) return null;
  return place + 1 < ids.length ? { before: ids[place + 1] } : { after: ids[place - 1] };
}

/** The index among `middles` (vertical centres of the other rows, top down) at which a row held at `y` goes in. */
export function slot(middles, y) {
  const below = middles.findIndex((middle) => y < middle);
  return below < 0 ? middles.length : below;
}

/** Batches folded: consecutive jobs of one batch as one group, others alone. Order is kept. */
export function folded(jobs) {
  const groups = [];
  const byBatch = new Map();
  for (const job of jobs) {
    const group = job.batch ? byBatch.get(job.batch) : undefined;
    if (group) {
      group.jobs.push(job);
      continue;
    }
    const fresh = { batch: job.batch || null, jobs: [job] };
    if (job.batch) byBatch.set(job.batch, fresh);
    groups.push(fresh);
  }
  return groups;
}
