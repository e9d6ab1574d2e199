// SPDX-License-Identifier: Apache-2.0
// The header: wordmark, tabs by route, how many jobs wait or run, light or dark. It polls for the whole page.
import { TABS, api, button, fill, h, href, icon, onKey, onRoute, poll, route, set, setTheme, theme } from '/static/ui.js';

const NAMES = { create: 'Create', watch: 'Watch', queue: 'Queue', gallery: 'Gallery', lab: 'Lab', export: 'Export', compare: 'Compare' };

class Shell extends HTMLElement {
  connectedCallback() {
    if (this.firstChild) return;
    this.badge = h('span.count', { title: 'jobs that wait or run' });
    this.links = Object.fromEntries(TABS.map((tab) => [tab, h('a', {}, icon(tab, 20), h('span', {}, NAMES[tab]), tab === 'queue' && this.badge)]));
    this.lamp = button('', { kind: 'quiet', title: 'Dark', onclick: () => setTheme(theme() === 'dark' ? 'light' : 'dark') });
    this.who = h('span.dl-who');
    fill(this,
      h('a.dl-mark', { href: '/?tab=create', 'aria-label': 'DreamLab' }, mark(), h('span', {}, 'DreamLab')),
      h('nav.dl-nav', { 'aria-label': 'Parts of the studio' }, Object.values(this.links)),
      h('div.dl-tools', {}, this.who, this.lamp));
    this.away = h('div.dl-away', { role: 'status', hidden: true }, icon('warn'), 'The studio is not answering. Jobs go on without it; this page waits for it.');
    this.after(this.away);
    document.addEventListener('dl-theme', () => this.light());
    this.light();
    onRoute((now) => this.at(now));
    poll(() => this.count(), 4000, { onerror: (error) => set(this.away, { hidden: error?.status !== 0 }) });
    TABS.forEach((tab, i) => onKey(`alt+${i + 1}`, () => this.links[tab].click()));
  }

  at(now) {
    document.documentElement.dataset.tab = now.tab;
    document.title = now.tab === 'create' ? 'DreamLab' : `${NAMES[now.tab]} · DreamLab`;
    for (const [tab, link] of Object.entries(this.links)) {
      const job = now.job && (tab === 'watch' || tab === 'export') ? now.job : null;
      set(link, { href: href({ tab, job }), 'aria-current': tab === now.tab ? 'page' : null });
    }
    const place = `${now.tab} ${now.job ?? ''}`; // a filter or a moment of the same place keeps where one looks
    if (this.place !== undefined && this.place !== place) window.scrollTo(0, 0);
    this.place = place;
  }

  /** Who is signed in, where a studio has users. */
  signed(name) {
    if (name === this.name) return;
    this.name = name;
    const leave = async () => {
      await api('POST', '/v1/logout', {});
      window.location.assign('/login');
    };
    fill(this.who, name && h('span.dl-hide-narrow', {}, name), name && button('', { icon: 'leave', kind: 'quiet', title: `Sign out ${name}`, onclick: leave }));
  }

  light() {
    const other = theme() === 'dark' ? 'light' : 'dark';
    fill(this.lamp, icon(other === 'dark' ? 'moon' : 'sun'));
    set(this.lamp, { 'aria-label': `Switch to ${other}`, title: `Switch to ${other}` });
  }

  async count() {
    const { jobs, auth, owner } = await api('GET', '/v1/system');
    this.signed(auth ? owner : '');
    const busy = (jobs?.queued ?? 0) + (jobs?.running ?? 0);
    fill(this.badge, busy ? String(Math.min(busy, 999)) : '');
    set(this.badge, { 'aria-label': busy ? `${busy} waiting or running` : null });
    if (route().tab === 'create' && busy !== this.busy) document.dispatchEvent(new CustomEvent('dl-busy', { detail: busy }));
    this.busy = busy;
  }
}

/** A cloud of points that becomes a body. */
function mark() {
  const svg = icon('cube', 22);
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.firstChild.setAttribute('d', 'M12 2.5l8.5 4.9v9.2L12 21.5 3.5 16.6');
  const dots = [[3.5, 7.4], [3.5, 12], [7.6, 5], [12, 12], [7.8, 9.6], [16.2, 9.6], [12, 16.8]];
  for (const [x, y] of dots) {
    const dot = document.createElementNS(svg.namespaceURI, 'circle');
    for (const [key, value] of Object.entries({ cx: x, cy: y, r: 1.3, fill: 'var(--dl-accent)', stroke: 'none' })) dot.setAttribute(key, value);
    svg.append(dot);
  }
  return svg;
}

customElements.define('dl-shell', Shell);
