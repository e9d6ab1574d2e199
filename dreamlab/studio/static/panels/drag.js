// SPDX-License-Identifier: Apache-2.0
// Rows put in another order by hand: held with the pointer, or moved by the arrow keys from their handle.

import { slot } from './order.js';

/**
 * `lists`: the <ol>s between which rows may go. A row is a child with data-key, its handle holds class `dlp-handle`.
 * `dropped(row, list)` is told when a row lies in another place than before; `busy(on)` while one is held.
 */
export class Drag {
  #row = null;
  #grip = 0;
  #from = null;
  #raf = 0;

  constructor(lists, { dropped, busy }) {
    Object.assign(this, { lists, dropped, busy });
    for (const list of lists) {
      list.addEventListener('pointerdown', (event) => this.#down(event));
      list.addEventListener('keydown', (event) => this.#key(event));
    }
  }

  get held() {
    return this.#row !== null;
  }

  #rowOf(event) {
    const handle = event.target.closest('.dlp-handle');
    return handle ? this.lists.flatMap((list) => [...list.children]).find((row) => row.contains(handle)) : null;
  }

  #down(event) {
    const row = event.button === 0 ? this.#rowOf(event) : null;
    if (!row || this.#row) return;
    event.preventDefault();
    event.target.closest('.dlp-handle').focus();
    const place = row.getBoundingClientRect();
    this.#row = row;
    this.#grip = event.clientY - place.top;
    this.#from = { list: row.parentElement, next: row.nextElementSibling };
    row.classList.add('is-held');
    this.busy(true);
    const move = (at) => this.#move(at.clientY);
    const key = (at) => {
      if (at.key !== 'Escape') return;
      this.#from.list.insertBefore(this.#row, this.#from.next);
      up();
    };
    const up = () => {
      window.removeEventListener('pointermove', move);
      window.removeEventListener('pointerup', up);
      window.removeEventListener('pointercancel', up);
      window.removeEventListener('keydown', key, true);
      cancelAnimationFrame(this.#raf);
      row.classList.remove('is-held');
      row.style.transform = '';
      this.#row = null;
      const { list, next } = this.#from;
      if (row.parentElement !== list || row.nextElementSibling !== next) this.dropped(row, row.parentElement);
      this.busy(false);
    };
    window.addEventListener('pointermove', move);
    window.addEventListener('pointerup', up);
    window.addEventListener('pointercancel', up);
    window.addEventListener('keydown', key, true);
  }

  #move(y) {
    cancelAnimationFrame(this.#raf);
    this.#raf = requestAnimationFrame(() => {
      const row = this.#row;
      if (!row) return;
      const middle = y - this.#grip + row.offsetHeight / 2;
      const list = this.#listAt(middle);
      const others = [...list.children].filter((one) => one !== row);
      const middles = others.map((one) => {
        const place = one.getBoundingClientRect();
        return place.top + place.height / 2;
      });
      const next = others[slot(middles, middle)] ?? null;
      if (row.parentElement !== list || row.nextElementSibling !== next) list.insertBefore(row, next);
      row.style.transform = '';
      const home = row.getBoundingClientRect();
      row.style.transform = `translateY(${y - this.#grip - home.top}px)`;
      const edge = 48;
      if (y < edge) window.scrollBy(0, -8);
      else if (y > window.innerHeight - edge) window.scrollBy(0, 8);
    });
  }

  #listAt(y) {
    const distance = (list) => {
      const place = list.getBoundingClientRect();
      return Math.max(place.top - y, y - place.bottom, 0);
    };
    return this.lists.reduce((best, list) => (distance(list) < distance(best) ? list : best));
  }

  #key(event) {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    const row = step && this.#rowOf(event);
    if (!row) return;
    event.preventDefault();
    const list = row.parentElement;
    const at = this.lists.indexOf(list);
    if (step < 0 && row.previousElementSibling) list.insertBefore(row, row.previousElementSibling);
    else if (step > 0 && row.nextElementSibling) list.insertBefore(row.nextElementSibling, row);
    else if (step < 0 && at > 0) this.lists[at - 1].append(row);
    else if (step > 0 && at + 1 < this.lists.length) this.lists[at + 1].prepend(row);
    else return;
    row.querySelector('.dlp-handle').focus();
    this.dropped(row, row.parentElement);
  }
}
