// SPDX-License-Identifier: Apache-2.0
// A grid of thousands: rows in blocks, each a grid of its own that the browser lays out and paints only while it is near
// the screen. A block holds whole rows, so that no gap shows where one ends.

const BLOCK = 48; // tiles, about
const LEAST = 232; // px: a tile is no narrower where more than two fit
const GAP = 16; // px between two
const TOLD = 'oncontentvisibilityautostatechange' in HTMLElement.prototype; // whether a browser says what it skips
const WORDS = 56; // px below a tile's square

export class Pages {
  constructor(element, block) {
    Object.assign(this, { element, block, columns: 2, items: [] });
    new ResizeObserver(() => this.fit()).observe(element);
  }

  /** How many columns fit; more or fewer than before, and all rows are others. */
  fit() {
    const { clientWidth } = this.element;
    const columns = Math.max(2, Math.floor((clientWidth + GAP) / (LEAST + GAP)));
    if (!clientWidth) return;
    if (columns === this.columns) {
      [...this.element.children].forEach((block, k) => this.hold(block, k));
      return;
    }
    this.columns = columns;
    this.element.style.setProperty('--dl-columns', columns);
    this.lay(0);
  }

  get size() {
    return Math.ceil(BLOCK / this.columns) * this.columns;
  }

  /** A block that wakes its tiles when it comes near the screen, and lets them rest when it is far. */
  made() {
    const block = this.block();
    block.near = !TOLD;
    block.addEventListener('contentvisibilityautostatechange', ({ target, skipped }) => {
      if (target !== block) return;
      block.near = !skipped;
      this.hold(block, [...this.element.children].indexOf(block));
      for (const item of block.children) item.awake(block.near);
    });
    return block;
  }

  /** Gives a block the room that it takes while nobody sees it, so that the bar beside the page says how much there is.
   *  Its size is said outright too: Chromium keeps the rows of another width where a script asked for a place in them. */
  hold(block, k) {
    const room = `${this.height(k)}px`;
    block.style.setProperty('contain-intrinsic-block-size', room);
    block.style.setProperty('block-size', block.near ? 'auto' : room);
  }

  height(k) {
    const rows = Math.ceil(Math.min(this.items.length - k * this.size, this.size) / this.columns);
    const side = (this.element.clientWidth + GAP) / this.columns - GAP;
    return Math.round(rows * (side + WORDS + GAP) - GAP);
  }

  /** These elements, in this order; those that are in their place are not touched. */
  show(items) {
    const same = items.findIndex((item, i) => this.items[i] !== item);
    const from = same < 0 ? Math.min(items.length, this.items.length) : same;
    const kept = new Set(items);
    for (const item of this.items) if (!kept.has(item)) item.remove();
    this.items = [...items];
    this.lay(from);
  }

  append(items) {
    const from = this.items.length;
    this.items.push(...items);
    this.lay(from);
  }

  /** Puts everything from the item `from` on into its block. */
  lay(from) {
    const { size, items, element } = this;
    for (let k = Math.floor(from / size); k * size < items.length; k += 1) {
      const block = element.children[k] ?? element.appendChild(this.made());
      let at = block.firstElementChild;
      for (const item of items.slice(k * size, (k + 1) * size)) {
        if (item === at) at = at.nextElementSibling;
        else block.insertBefore(item, at);
        item.awake(block.near);
      }
      this.hold(block, k);
    }
    while (element.childElementCount > Math.ceil(items.length / size)) element.lastElementChild.remove();
  }
}
