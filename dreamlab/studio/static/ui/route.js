// SPDX-License-Identifier: Apache-2.0
// Where the page is stands in the URL alone: /?tab=watch&job=ID. Back, forward and deep links restore everything.

export const TABS = ['create', 'watch', 'queue', 'gallery', 'lab', 'export', 'compare'];
const listeners = new Set();

/** The URL as an object; `tab` is always one of TABS. */
export function route() {
  const values = Object.fromEntries(new URLSearchParams(window.location.search));
  return { ...values, tab: TABS.includes(values.tab) ? values.tab : 'create' };
}

/** The address of a place: href({tab: 'watch', job}). Use it for links, so that a middle click works. */
export function href(values) {
  const kept = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== '');
  return `/?${new URLSearchParams(kept)}`;
}

/** Goes there. `{replace: true}` for what back should skip (a filter while it is typed). */
export function go(values, { replace = false } = {}) {
  const to = href(values);
  if (to === window.location.pathname + window.location.search) return;
  window.history[replace ? 'replaceState' : 'pushState']({}, '', to);
  tell();
}

/** cb(route) now and at every change; returns what ends it. */
export function onRoute(listener) {
  listeners.add(listener);
  listener(route());
  return () => listeners.delete(listener);
}

function tell() {
  const now = route();
  for (const listener of [...listeners]) listener(now);
}

window.addEventListener('popstate', tell);

/** Links of our own go without a load of the page. */
document.addEventListener('click', (event) => {
  const link = event.target.closest?.('a[href^="/?"]');
  if (!link || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || link.target === '_blank') return;
  event.preventDefault();
  go(Object.fromEntries(new URLSearchParams(new URL(link.href).search)));
});

/**
 * A tab's element: `static tab = 'queue'`, `show(route)` when the tab is shown or its route changes, `hide()` when it
 * is left. Nothing of a hidden tab polls. `this.track(stop)` is called at hide.
 */
export class Panel extends HTMLElement {
  connectedCallback() {
    this.shown = false;
    this.stops = [];
    this.unroute = onRoute((now) => {
      if (now.tab === this.constructor.tab) {
        this.shown = true;
        this.show(now);
      } else if (this.shown) this.leave();
    });
  }

  disconnectedCallback() {
    this.unroute?.();
    if (this.shown) this.leave();
  }

  leave() {
    this.shown = false;
    for (const stop of this.stops.splice(0)) stop();
    this.hide();
  }

  track(stop) {
    this.stops.push(typeof stop === 'function' ? stop : stop.stop);
  }

  show() {}

  hide() {}
}
