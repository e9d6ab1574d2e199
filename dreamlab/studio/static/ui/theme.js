// SPDX-License-Identifier: Apache-2.0
// Light and dark: the machine's, until a person chooses. head.js set the class before the first paint.

const KEPT = 'dreamlab-theme';

export function theme() {
  return document.documentElement.classList.contains('dark') ? 'dark' : 'light';
}

/** 'light', 'dark', or null: as the machine has it. */
export function setTheme(name) {
  if (name) localStorage.setItem(KEPT, name);
  else localStorage.removeItem(KEPT);
  apply();
}

function apply() {
  const dark = (localStorage.getItem(KEPT) ?? (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';
  const before = theme();
  document.documentElement.classList.toggle('dark', dark);
  if (document.body.classList.contains('dark') !== dark) document.body.classList.toggle('dark', dark);
  if (before !== theme()) document.dispatchEvent(new CustomEvent('dl-theme'));
}

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', apply);
// gradio sets its own class on the body by the machine's scheme; the person's choice counts.
new MutationObserver(apply).observe(document.body, { attributes: true, attributeFilter: ['class'] });
apply();
