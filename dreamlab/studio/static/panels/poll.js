// SPDX-License-Identifier: Apache-2.0
// Polling is what the page stands on; events by SSE only make the next poll come sooner.

const FASTEST_MS = 1000;
const SLOWEST_MS = 15_000;
const GROWTH = 1.6;

/** How long until the next question: 1 s while something moves, longer while nothing does or nobody answers. */
export function pause(calm, failures) {
  const exponent = failures > 0 ? failures : calm;
  return Math.min(SLOWEST_MS, FASTEST_MS * GROWTH ** exponent);
}

/**
 * Calls `ask` (async; true: something moves, false: nothing does) again and again while the page is seen.
 * `report` hears of a failure (the error, how often in a row) and of the first success after it (null, 0).
 */
export class Poll {
  #timer = 0;
  #running = false;
  #asking = false;
  #again = false;
  #calm = 0;
  #failures = 0;

  constructor(ask, report = () => {}) {
    this.ask = ask;
    this.report = report;
    this.seen = () => (document.hidden ? clearTimeout(this.#timer) : this.wake());
  }

  start() {
    if (this.#running) return;
    this.#running = true;
    document.addEventListener('visibilitychange', this.seen);
    this.wake();
  }

  stop() {
    this.#running = false;
    clearTimeout(this.#timer);
    document.removeEventListener('visibilitychange', this.seen);
  }

  /** Ask now, and often again. */
  wake() {
    this.#calm = 0;
    if (!this.#running) return;
    if (this.#asking) this.#again = true;
    else this.#turn();
  }

  async #turn() {
    clearTimeout(this.#timer);
    this.#asking = true;
    this.#again = false;
    try {
      const moves = await this.ask();
      this.#calm = moves ? 0 : this.#calm + 1;
      if (this.#failures > 0) this.report(null, 0);
      this.#failures = 0;
    } catch (error) {
      this.#failures += 1;
      this.report(error, this.#failures);
    }
    this.#asking = false;
    if (!this.#running || document.hidden) return;
    this.#timer = setTimeout(() => this.#turn(), this.#again ? 0 : pause(this.#calm, this.#failures));
  }
}

const listeners = new Set();
let source = null;

function heard(event) {
  let told = {};
  try {
    told = JSON.parse(event.data);
  } catch {
    return; // a comment or a keep-alive
  }
  for (const listener of listeners) listener(told);
}

/** Open while somebody listens and the page is seen: a browser has few connections to share between its tabs. */
function settle() {
  const wanted = listeners.size > 0 && !document.hidden && typeof EventSource !== 'undefined';
  if (wanted && !source) {
    source = new EventSource('/v1/events');
    source.onmessage = heard;
    source.addEventListener('state', heard);
  } else if (!wanted && source) {
    source.close();
    source = null;
  }
}

/** Hear of every change of state; one connection for the whole page. Returns what ends it. */
export function onChange(listener) {
  if (listeners.size === 0) document.addEventListener('visibilitychange', settle);
  listeners.add(listener);
  settle();
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) document.removeEventListener('visibilitychange', settle);
    settle();
  };
}
