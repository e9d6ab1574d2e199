// SPDX-License-Identifier: Apache-2.0
// The studio's own interface on the same origin. Every failure is an ApiError with code, message, hint, fields.

export class ApiError extends Error {
  constructor(status, { code = 'error', message = 'The studio did not answer as expected.', hint = '', fields = [] } = {}) {
    super(message);
    Object.assign(this, { status, code, hint, fields });
  }
}

const GONE = {
  code: 'unreachable',
  message: 'The studio is not answering.',
  hint: 'It may be restarting; jobs go on without it. This page tries again by itself.',
};

const CUT_OFF = {};

/** api('GET', '/v1/jobs'), api('POST', '/v1/jobs', {prompt}), api('POST', '/v1/uploads', file, {raw: name}). */
export async function api(method, path, body = undefined, { raw = null, key = null, signal = undefined } = {}) {
  const headers = { Accept: 'application/json' };
  if (raw !== null) headers['X-Filename'] = encodeURIComponent(raw);
  else if (body !== undefined) headers['Content-Type'] = 'application/json';
  if (key) headers['Idempotency-Key'] = key;
  const sent = raw !== null ? body : body === undefined ? undefined : JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: sent, signal, credentials: 'same-origin' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError(0, GONE);
  }
  if (answer.status === 401) {
    window.location.assign(`/login?next=${encodeURIComponent(window.location.pathname + window.location.search)}`);
  }
  const json = (answer.headers.get('Content-Type') ?? '').includes('json') ? await answer.json().catch(cutOff) : null;
  if (!answer.ok) throw new ApiError(answer.status, json?.error ?? said(answer));
  if (json === CUT_OFF) throw new ApiError(0, GONE);
  return json;
}

/** An answer whose end never came: the studio went down while it spoke. */
function cutOff(error) {
  if (error.name === 'AbortError') throw error;
  return CUT_OFF;
}

function said(answer) {
  if (answer.status >= 502 && answer.status <= 504) return GONE;
  return { code: String(answer.status), message: `The studio answered ${answer.status} ${answer.statusText}.` };
}

/** A query string without what is empty: query({q: '', limit: 5}) is '?limit=5'. */
export function query(values) {
  const kept = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== '' && value !== false);
  return kept.length ? `?${new URLSearchParams(kept)}` : '';
}

/** An Idempotency-Key for one act of a person: the same key again is the same job. */
export function freshKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/**
 * Calls an async function every `ms`, never twice at once, slower while the page is hidden or the server away.
 * `onerror(error)` is told of failures, `onerror(null)` of the first success after. Returns {stop, now}.
 */
export function poll(work, ms, { onerror = () => {} } = {}) {
  let timer = null;
  let stopped = false;
  let failed = 0;
  const round = async () => {
    clearTimeout(timer);
    try {
      await work();
      if (failed) onerror(null);
      failed = 0;
    } catch (error) {
      if (error.name !== 'AbortError') onerror(error);
      failed += 1;
    }
    const pause = Math.min(ms * 2 ** Math.min(failed, 4), 15000) * (document.hidden ? 4 : 1);
    if (!stopped) timer = setTimeout(round, pause);
  };
  round();
  return {
    stop: () => {
      stopped = true;
      clearTimeout(timer);
    },
    now: () => !stopped && round(),
  };
}

/** Server-sent events: events('/v1/events', {state: (data) => ...}); the browser resumes by itself. Returns stop(). */
export function events(path, handlers) {
  const source = new EventSource(path);
  for (const [kind, work] of Object.entries(handlers)) {
    source.addEventListener(kind, (event) => work(event.data ? JSON.parse(event.data) : null));
  }
  return () => source.close();
}
