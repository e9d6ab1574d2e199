// SPDX-License-Identifier: Apache-2.0
// What the lab asks for, and what its jobs are called; no DOM, so that node can test it.

/** The body of POST /v1/batches. Rules are recipes on the same oracle; scenes and seeds vary the recipe `sds`. */
export function batchOf({ vary, chosen, prompt, steps, seed }) {
  const job = { kind: 'dream', prompt, settings: { steps } };
  if (vary === 'rules') return { job: { ...job, seed }, cross: { recipe: chosen } };
  const recipe = 'sds';
  if (vary === 'scenes') return { job: { ...job, recipe, seed }, cross: { 'stages.0.scene': chosen } };
  return { job: { ...job, recipe }, cross: { seed: chosen.map(Number) } };
}

const VARIED = { recipe: 'rules', 'stages.0.scene': 'scenes', seed: 'seeds' };

/** What batchOf was asked for these jobs; null where something else varies. */
export function askedOf(jobs) {
  const names = new Set(jobs.flatMap((job) => Object.keys(job.values ?? {})));
  const [name] = names;
  const [{ prompt, seed, settings }] = jobs;
  if (names.size !== 1 || !VARIED[name]) return null;
  return { vary: VARIED[name], chosen: jobs.map(({ values }) => String(values[name])), prompt, steps: settings?.steps ?? null, seed };
}

/** What tells a job of a batch from the others; '' of a job that is in none. `but`: values that are said elsewhere. */
export function nameOf(job, but = []) {
  const told = Object.entries(job.values ?? {})
    .filter(([name]) => !but.includes(name))
    .map(([name, value]) => {
      const words = value !== null && typeof value === 'object' ? JSON.stringify(value) : String(value);
      return typeof value === 'string' ? words : `${name.split('.').at(-1)} ${words}`;
    });
  return told.join(', ');
}
