// SPDX-License-Identifier: Apache-2.0
// What a view says when it has nothing to show yet, or cannot: a line, and a button where trying again may help.

const SLOW = 250; // milliseconds before waiting is worth a word

export class Notice {
  constructor(parent) {
    this.box = document.createElement('div');
    this.box.setAttribute('role', 'status');
    Object.assign(this.box.style, {
      position: 'absolute', inset: '0', display: 'none', flexDirection: 'column', alignItems: 'center',
      justifyContent: 'center', gap: '12px', padding: '16px', textAlign: 'center', pointerEvents: 'none',
      font: '14px/20px system-ui, sans-serif', color: 'var(--dl-dim, #7a808c)',
    });
    this.words = document.createElement('span');
    this.button = document.createElement('button');
    this.button.type = 'button';
    this.button.textContent = 'Try again';
    Object.assign(this.button.style, {
      pointerEvents: 'auto', font: 'inherit', padding: '4px 12px', borderRadius: '8px', cursor: 'pointer',
      border: '1px solid var(--dl-line, #8886)', background: 'var(--dl-panel, transparent)', color: 'inherit',
    });
    this.button.addEventListener('click', () => this.again?.());
    this.box.append(this.words, this.button);
    parent.append(this.box);
  }

  hide() {
    clearTimeout(this.timer);
    this.words.textContent = '';
    this.box.style.display = 'none';
  }

  // After a moment: what is quick says nothing.
  waiting(words) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#show(words, null), SLOW);
  }

  // `beside`: at the foot of what is still shown.
  failed(words, again, beside = false) {
    clearTimeout(this.timer);
    this.#show(words, again, beside);
  }

  #show(words, again, beside = false) {
    this.box.style.justifyContent = beside ? 'flex-end' : 'center';
    this.box.style.fontSize = beside ? '12px' : '14px';
    this.words.textContent = words;
    this.again = again;
    this.button.style.display = again ? '' : 'none';
    this.box.style.display = 'flex';
  }

  dispose() {
    clearTimeout(this.timer);
    this.box.remove();
  }
}
