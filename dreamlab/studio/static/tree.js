// SPDX-License-Identifier: Apache-2.0
// Where a run comes from and what came of it, as nested lists that a screen reader reads as a tree of links.

import { h } from './ui.js';

const size = (node) => 1 + (node.children ?? []).reduce((sum, child) => sum + size(child), 0);

/** What a child differs in, beside its parent; said only where it differs. */
export function difference(node, parent) {
  if (!parent) return '';
  const told = [];
  if (node.kind === 'continue') told.push('continued');
  else if (node.kind === 'branch') told.push('branch');
  if (Number.isFinite(node.step_from)) told.push(`from step ${node.step_from}`);
  if (node.recipe && node.recipe !== parent.recipe) told.push(node.recipe);
  if (Number.isFinite(node.seed) && node.seed !== parent.seed) told.push(`seed ${node.seed}`);
  return told.join(', ');
}

/** The lineage below `root`; `here` is the run that is looked at, `open` is called with the id of the one chosen. */
export function tree(root, here, open) {
  const item = (node, parent) => {
    const current = node.id === here;
    const words = parent && node.prompt === parent.prompt ? difference(node, parent) || 'same prompt' : node.prompt;
    const more = parent && node.prompt !== parent.prompt ? difference(node, parent) : '';
    const label = h(
      'a',
      {
        class: 'dl-tree-link',
        href: `?tab=watch&job=${encodeURIComponent(node.id)}`,
        ...(current ? { 'aria-current': 'page' } : {}),
        onclick: (event) => {
          if (event.metaKey || event.ctrlKey) return;
          event.preventDefault();
          open(node.id);
        },
      },
      h('span', { class: `dl-dot dl-is-${node.state ?? 'succeeded'}` }),
      h('span', { class: 'dl-tree-words' }, words),
      more ? h('small', {}, more) : '',
    );
    const below = node.children ?? [];
    return h('li', {}, label, below.length ? h('ul', {}, ...below.map((child) => item(child, node))) : '');
  };
  return h('ul', { class: 'dl-tree', 'aria-label': `Lineage of ${size(root)} runs` }, item(root, null));
}
