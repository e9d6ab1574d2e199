// SPDX-License-Identifier: Apache-2.0
// What every part of the page is built from. Import from here: `import { h, api, go } from '/static/ui.js'`.
//
//   elements  h('button.dl-btn', props, ...children), set, fill, button(label, {icon, kind, small, onclick, title}),
//             field(label, control, {hint}) with .complain(text), segmented(label, [[key, text, icon]], value, onchange),
//             progress(0..1 | null) with .show, empty({icon, title, text, action}), trouble(error, {retry}),
//             skeleton(count, 'line' | 'card'), state('running'), chip(text, {onclick, kind}), icon(name)
//   server    api(method, path, body, {raw, key, signal}) -> JSON or ApiError {status, code, message, hint, fields},
//             query({..}), freshKey(), poll(work, ms, {onerror}) -> {stop, now}, events(path, {kind: cb}) -> stop
//             said(error) -> {message, hint} in words of the page, line(error), plain(text)
//   places    route(), go({tab, job}, {replace}), href({tab}), onRoute(cb) -> stop, TABS,
//             class Panel extends HTMLElement: static tab, show(route), hide(), track(stop)
//   over it   toast(text, {kind, action, seconds}), dialog({title, body, actions, wide}), confirm(title, text), copy(text)
//   figures   duration, bytes, ago, count, figure, many
//   curves    sparkline([[step, value]], {width, height, log, label, more}) with .show(points)
//   look      theme() 'light' | 'dark', setTheme(name); event 'dl-theme' on document when it changes
//   keys      onKey('mod+enter', cb, {within}) -> stop
//
// Classes of studio.css: dl-btn (primary danger quiet small bare), dl-input (mono), dl-seg, dl-field, dl-chip (good warn
// bad), dl-card, dl-panel, dl-table, dl-progress, dl-state, dl-empty, dl-notice (good warn bad), dl-skel, dl-pic (a
// picture on its paper), dl-stage (a place for pictures or a Viewer), dl-row, dl-stack, dl-split, dl-grid, dl-scroll,
// dl-facts (dl of figures), dl-menu, dl-kbd, dl-dim, dl-small, dl-num, dl-hide-narrow, dl-only-narrow.

export { icon, ICONS } from './icons.js';
export { h, set, fill, button, field, segmented, progress, empty, trouble, skeleton, state, chip } from './ui/dom.js';
export { api, ApiError, query, freshKey, poll, events } from './ui/api.js';
export { said, line, plain } from './ui/said.js';
export { TABS, Panel, route, go, href, onRoute } from './ui/route.js';
export { toast, dialog, confirm, copy } from './ui/overlay.js';
export { duration, bytes, ago, count, figure, many } from './ui/format.js';
export { sparkline } from './ui/chart.js';
export { theme, setTheme } from './ui/theme.js';
export { onKey } from './ui/keys.js';
