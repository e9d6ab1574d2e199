// SPDX-License-Identifier: Apache-2.0
// <dl-gallery>: every run that is there, the newest first; /?tab=gallery&q=words&favourite=true&sort=oldest.

import { Pages } from './panels/pages.js';
import { say, unmade } from './panels/parts.js';
import { onChange, Poll } from './panels/poll.js';
import { tidy } from './panels/tidy.js';
import { tile } from './panels/tile.js';
import { api, button, empty, fill, go, h, Panel, query, skeleton, trouble } from './ui.js';

const PAGE = 60;
const AHEAD = 1200; // px: how far below the screen the next page is asked for
const MOST_COMPARED = 4;
const SORTS = [
  ['newest', 'Newest'],
  ['oldest', 'Oldest'],
];

class Gallery extends Panel {
  static tab = 'gallery';

  show(route) {
    if (!this.ready) this.build();
    const wanted = { q: route.q ?? '', favourite: route.favourite ? 'true' : '', sort: route.sort ?? 'newest' };
    const same = this.wanted && Object.keys(wanted).every((key) => wanted[key] === this.wanted[key]);
    this.wanted = wanted;
    if (document.activeElement !== this.search) this.search.value = wanted.q;
    this.starred.setAttribute('aria-pressed', String(Boolean(wanted.favourite)));
    this.sorter.value = wanted.sort;
    if (!same) this.restart();
    if (this.poll) return;
    this.poll = new Poll(
      () => this.refresh(),
      (error) => !error && fill(this.notice),
    );
    this.track(onChange(() => this.poll?.wake()));
    this.track(() => this.poll?.stop());
    const near = () => this.onScreen();
    window.addEventListener('scroll', near, { passive: true });
    this.track(() => window.removeEventListener('scroll', near));
    this.poll.start();
  }

  hide() {
    this.poll = null;
  }

  build() {
    Object.assign(this, { ready: true, chosen: new Map(), tiles: new Map() });
    this.search = h('input.dl-input.dlp-search', {
      type: 'search',
      placeholder: 'Search prompts',
      'aria-label': 'Search prompts',
    });
    this.search.addEventListener('input', () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.to({ q: this.search.value.trim() }), 200);
    });
    this.starred = button('Favourites', {
      icon: 'star',
      'aria-pressed': 'false',
      onclick: () => this.to({ favourite: this.wanted.favourite ? '' : 'true' }),
    });
    this.sorter = h(
      'select.dl-input.dlg-sort',
      { 'aria-label': 'Order' },
      SORTS.map(([value, name]) => h('option', { value }, name)),
    );
    this.sorter.addEventListener('change', () => this.to({ sort: this.sorter.value }));
    this.tidier = button('', {
      icon: 'trash',
      kind: 'quiet',
      title: 'Tidy up',
      onclick: () => tidy(() => this.restart()),
    });
    this.count = h('span.dlp-dim');
    this.notice = h('div');
    this.grid = h('div', { role: 'list', 'aria-label': 'Runs' });
    this.pages = new Pages(this.grid, () => h('div.dlg-grid', { role: 'presentation' }));
    this.body = h('div', {}, this.grid);
    this.foot = h('div.dlg-foot', { 'aria-hidden': 'true' });
    this.picked = h('span');
    this.comparer = button('Compare', {
      icon: 'compare',
      kind: 'primary',
      onclick: () => go({ tab: 'compare', ids: [...this.chosen.keys()].join() }),
    });
    this.tray = h(
      'div.dlg-tray',
      { hidden: true, role: 'region', 'aria-label': 'Chosen runs' },
      this.picked,
      this.comparer,
      button('Clear', { kind: 'quiet', onclick: () => this.clear() }),
    );
    fill(
      this,
      h(
        'header.dlp-bar',
        {},
        h('h2', {}, 'Gallery'),
        this.count,
        h('span.dlp-gap'),
        this.search,
        this.starred,
        this.sorter,
        this.tidier,
      ),
      this.notice,
      this.body,
      this.foot,
      this.tray,
    );
  }

  to(change) {
    const { q, favourite, sort } = { ...this.wanted, ...change };
    go({ tab: 'gallery', q, favourite, sort: sort === 'newest' ? '' : sort }, { replace: 'q' in change });
  }

  ask(cursor) {
    const { q, favourite, sort } = this.wanted;
    return api('GET', `/v1/runs${query({ q, favourite, sort, limit: PAGE, cursor })}`);
  }

  restart() {
    Object.assign(this, { runs: [], cursor: null, begun: false, busy: false });
    this.tiles.clear();
    this.pages.show([]);
    fill(this.body, skeleton(12, 'card'));
    this.poll?.wake();
  }

  /** The first page again: new runs come in above, known ones show what has changed. */
  async refresh() {
    const { wanted } = this;
    let page;
    try {
      page = await this.ask(null);
    } catch (error) {
      if (wanted === this.wanted && !this.begun) fill(this.body, trouble(error, { retry: () => this.poll?.wake() }));
      throw error;
    }
    if (wanted !== this.wanted) return true;
    const first = page.runs;
    const told = JSON.stringify(first);
    if (this.begun && told === this.told) return false;
    this.told = told;
    const ids = new Set(first.map((run) => run.id));
    const known = this.runs.filter((run) => !ids.has(run.id));
    const cut = this.begun && known.length < this.runs.length ? known : [];
    if (!this.begun || cut !== known) this.cursor = page.next;
    this.runs = [...first, ...cut];
    this.begun = true;
    if (Number.isFinite(page.total)) this.total = page.total;
    for (const run of first) this.tiles.get(run.id)?.show(run);
    this.draw();
    this.onScreen();
    return false;
  }

  /** The next page, before the end of this one is seen. */
  onScreen() {
    if (this.cursor && this.foot.getBoundingClientRect().top < window.innerHeight + AHEAD) this.more();
  }

  async more() {
    if (!this.begun || this.busy || !this.cursor) return;
    this.busy = true;
    const { wanted } = this;
    try {
      const page = await this.ask(this.cursor);
      if (wanted !== this.wanted) return;
      const fresh = page.runs.filter((run) => !this.tiles.has(run.id));
      this.runs.push(...fresh);
      this.cursor = page.next;
      this.pages.append(fresh.map((run) => this.tile(run)));
      this.head();
    } catch {
      this.cursor = this.cursor ?? null; // the next scroll asks again
    } finally {
      this.busy = false;
    }
    this.onScreen();
  }

  tile(run) {
    const element = tile(run, {
      gone: (one) => this.gone(one),
      back: () => this.poll?.wake(),
      pick: (one, on) => this.pick(one, on),
      picked: (id) => this.chosen.has(id),
    });
    element.dataset.key = run.id;
    this.tiles.set(run.id, element);
    return element;
  }

  /** Tiles in the order of the runs; what they show is not looked at again. */
  draw() {
    if (this.runs.length === 0) {
      fill(this.body, this.nothing());
      this.head();
      return;
    }
    this.pages.show(this.runs.map((run) => this.tiles.get(run.id) ?? this.tile(run)));
    const there = new Set(this.runs.map((run) => run.id));
    for (const id of this.tiles.keys()) if (!there.has(id)) this.tiles.delete(id);
    if (this.body.firstChild !== this.grid) fill(this.body, this.grid);
    this.head();
  }

  head() {
    const all = this.total ?? (this.cursor ? null : this.runs.length);
    this.tidier.hidden = this.runs.length === 0;
    say(this.count, all === null ? '' : `${all.toLocaleString('en-GB')} ${all === 1 ? 'run' : 'runs'}`);
  }

  nothing() {
    const { q, favourite } = this.wanted;
    const all = button('Show all', { onclick: () => go({ tab: 'gallery' }) });
    if (q) return empty({ icon: 'search', title: 'Nothing found', text: `No run's prompt holds “${q}”.`, action: all });
    if (favourite)
      return empty({
        icon: 'star',
        title: 'No favourites yet',
        text: 'The star on a picture keeps a run here.',
        action: all,
      });
    return unmade(
      'gallery',
      'Nothing made yet',
      'Every run is kept here with its settings, those of the command line too.',
    );
  }

  gone(run) {
    this.runs = this.runs.filter((one) => one.id !== run.id);
    this.told = ''; // brought back, the first page is again what it was
    this.tiles.delete(run.id);
    if (this.chosen.delete(run.id)) this.trayed();
    if (Number.isFinite(this.total)) this.total -= 1;
    this.draw();
  }

  pick(run, on) {
    const before = [...this.chosen.keys()];
    if (on && this.chosen.size >= MOST_COMPARED) this.chosen.delete(before[0]);
    if (on) this.chosen.set(run.id, run);
    else this.chosen.delete(run.id);
    this.trayed([...before, run.id]);
  }

  clear() {
    const before = [...this.chosen.keys()];
    this.chosen.clear();
    this.trayed(before);
  }

  trayed(touched = []) {
    const count = this.chosen.size;
    this.tray.hidden = count === 0;
    say(this.picked, count < 2 ? 'One chosen. Choose another to compare.' : `${count} chosen`);
    this.comparer.disabled = count < 2;
    for (const id of touched) this.tiles.get(id)?.check();
  }
}

customElements.define('dl-gallery', Gallery);
