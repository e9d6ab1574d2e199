// SPDX-License-Identifier: Apache-2.0
// Keys: 'mod+enter' is Ctrl or Cmd with Enter; a bare letter is left to whoever is typing.

/** cb(event) at a key; `within` limits it to an element. Returns what ends it. */
export function onKey(spec, work, { within = document } = {}) {
  const parts = spec.toLowerCase().split('+');
  const key = parts.pop();
  const wants = { mod: parts.includes('mod'), shift: parts.includes('shift'), alt: parts.includes('alt') };
  const listener = (event) => {
    if (event.key.toLowerCase() !== key || (event.ctrlKey || event.metaKey) !== wants.mod) return;
    if (event.altKey !== wants.alt || (wants.shift && !event.shiftKey)) return;
    if (!wants.mod && !wants.alt && event.target.closest?.('input, textarea, select, [contenteditable]')) return;
    event.preventDefault();
    work(event);
  };
  within.addEventListener('keydown', listener);
  return () => within.removeEventListener('keydown', listener);
}
