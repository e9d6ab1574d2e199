// SPDX-License-Identifier: Apache-2.0
// What went wrong, in words of the page: the engine's own speak of a command line too. No DOM, so that node can test it.

// What to do here, by the code of an error; what is not named keeps the hint that came with it.
const WAYS = {
  defect: 'Try again. If it comes again, its log says where it happened.',
  recipe: 'Change the setting that is named, then start it again.',
  input: 'Change what was given, then start it again.',
  invalid: 'Change what is named, then send it again.',
  model: 'It needs a model that is not on this machine: choose a recipe that needs none.',
  memory: 'Choose Draft, or fewer views or a smaller size in Settings.',
  diverged: 'Lower the learning rate or the guidance scale in Settings.',
  disk: 'Free some space on the disk of this studio. Retry goes on from the last checkpoint.',
  stopped: 'Retry goes on from the last checkpoint.',
  killed: 'Retry goes on from the last checkpoint.',
  frozen: 'Retry goes on from the last checkpoint.',
  unknown: 'It may have been deleted. The gallery shows what there is.',
  conflict: 'It has changed meanwhile. Reload the page to see how it stands.',
  json: 'The page is older than the studio. Reload it.',
  method: 'The page is older than the studio. Reload it.',
  sign_in: 'Sign in again.',
};

// `--image FILE`, `dreamlab models ls`, a setting as a command line has it
const COMMAND = /(?<![\w-])(?:--[a-z][\w-]*|dreamlab [a-z]+)/;

/** A line without its clauses that only a command line can follow; at least what is wrong remains. */
export function plain(text) {
  const bare = text.replace(/\s*\([^()]*\)/g, (part) => (COMMAND.test(part) ? '' : part));
  const kept = bare.split(/;\s+/).map((clause) => {
    const found = clause.match(COMMAND);
    if (!found) return clause;
    const before = clause.slice(0, found.index);
    const cut = Math.max(before.lastIndexOf(': '), before.lastIndexOf(', '));
    return cut > 0 ? clause.slice(0, cut) : '';
  }).filter(Boolean);
  return kept.join('; ') || bare.slice(0, bare.search(COMMAND)).replace(/[\s`:,;(]+$/, '') || bare;
}

/** {message, hint} of an ApiError or of a job's {code, message, hint}. */
export function said(error) {
  const message = plain(error.message || String(error));
  const own = error.hint && !COMMAND.test(error.hint) ? error.hint : '';
  return { message, hint: WAYS[error.code] ?? own };
}

/** Both in a line, for where there is no more room. */
export function line(error) {
  const { message, hint } = said(error);
  return [message, hint].filter(Boolean).map((part) => (/[.?!]$/.test(part) ? part : `${part}.`)).join(' ');
}
