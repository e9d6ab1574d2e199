// SPDX-License-Identifier: Apache-2.0
// Making elements. Text from outside becomes text nodes, never markup.
import { icon } from '../icons.js';
import { said } from './said.js';

/**
 * h('button.dl-btn.primary#go', {onclick, disabled: true, 'aria-label': 'Go'}, 'Go', icon('play'))
 * Functions are listeners, true/false/null set or leave out an attribute, `value` and `checked` are properties,
 * `style` and `dataset` may be objects. Children: nodes, text, numbers, lists; null and false are left out.
 */
export function h(spec, props = {}, ...children) {
  const [, tag, rest] = spec.match(/^([a-z][\w-]*)?(.*)$/i);
  const element = document.createElement(tag || 'div');
  for (const part of rest.match(/[.#][^.#]+/g) ?? []) {
    if (part[0] === '.') element.classList.add(part.slice(1));
    else element.id = part.slice(1);
  }
  const plain = props && typeof props === 'object' && !(props instanceof Node) && !Array.isArray(props);
  if (plain) set(element, props);
  else children.unshift(props);
  add(element, children);
  return element;
}

/** Attributes, properties and listeners of an element that is there. */
export function set(element, props) {
  for (const [key, value] of Object.entries(props)) {
    if (key.startsWith('on') && typeof value === 'function') element.addEventListener(key.slice(2), value);
    else if (key === 'class') for (const name of String(value ?? '').split(' ').filter(Boolean)) element.classList.add(name);
    else if (key === 'style' && value && typeof value === 'object') {
      for (const [name, text] of Object.entries(value)) element.style.setProperty(name, text);
    } else if (key === 'dataset') Object.assign(element.dataset, value);
    else if (['value', 'checked', 'indeterminate', 'muted'].includes(key)) element[key] = value ?? '';
    else if (value === true) element.setAttribute(key, '');
    else if (value === false || value === null || value === undefined) element.removeAttribute(key);
    else element.setAttribute(key, value);
  }
  return element;
}

function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === '') continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** Puts other children in an element's place of its own. */
export function fill(element, ...children) {
  element.replaceChildren();
  add(element, children);
  return element;
}

/** A button: button('Save', {icon: 'check', kind: 'primary', small: true, onclick}). Without a label it needs `title`. */
export function button(label, { icon: name, kind = '', small = false, class: own = '', ...props } = {}) {
  const classes = [kind, small ? 'small' : '', label ? '' : 'bare', own].filter(Boolean).join(' ');
  const named = label ? {} : { 'aria-label': props.title };
  return h('button.dl-btn', { type: 'button', class: classes, ...named, ...props }, name && icon(name), label);
}

/** A field: label, control, hint, and a place for its error (`field.complain(text)`, `''` clears it). */
let fields = 0;
export function field(label, control, { hint = '', wide = false } = {}) {
  const id = control.id || (control.id = `dl-f${++fields}`);
  const error = h('p.dl-error', { id: `${id}-error`, role: 'alert' });
  const help = hint && h('p.dl-hint', { id: `${id}-hint` }, hint);
  if (help) control.setAttribute('aria-describedby', help.id);
  const element = h('div.dl-field', { class: wide ? 'wide' : '' }, h('label', { for: id }, label), control, help, error);
  element.complain = (text) => {
    error.textContent = text;
    control.setAttribute('aria-invalid', String(Boolean(text)));
    control.setAttribute('aria-describedby', [help && help.id, text && error.id].filter(Boolean).join(' '));
  };
  return element;
}

/** One of a few: segmented('Quality', [['draft','Draft'],...], 'draft', (value) => ...); `.value` reads and sets. */
let groups = 0;
export function segmented(label, options, value, onchange) {
  const name = `dl-seg${++groups}`;
  const element = h('div.dl-seg', { role: 'radiogroup', 'aria-label': label });
  for (const [key, text, picture] of options) {
    const input = h('input', { type: 'radio', name, value: key, checked: key === value });
    input.addEventListener('change', () => onchange?.(key));
    element.append(h('label', {}, input, h('span', {}, picture && icon(picture), text)));
  }
  Object.defineProperty(element, 'value', {
    get: () => element.querySelector('input:checked')?.value,
    set: (key) => {
      for (const input of element.querySelectorAll('input')) input.checked = input.value === key;
    },
  });
  return element;
}

/** A bar; value 0..1, or null: it moves without an end. */
export function progress(value, label = 'progress') {
  const bar = h('div.dl-progress', { role: 'progressbar', 'aria-label': label, 'aria-valuemin': 0, 'aria-valuemax': 100 }, h('i'));
  bar.show = (now) => {
    bar.classList.toggle('endless', now === null);
    set(bar, { 'aria-valuenow': now === null ? null : Math.round(now * 100) });
    bar.firstChild.style.setProperty('width', now === null ? '' : `${(now * 100).toFixed(1)}%`);
  };
  bar.show(value);
  return bar;
}

/** What stands where nothing is yet: empty({icon, title, text, action: button(...)}). */
export function empty({ icon: name = 'info', title, text = '', action = null, picture = null }) {
  return h('div.dl-empty', {}, picture ?? icon(name, 28), h('h3', {}, title), text && h('p', {}, text), action);
}

/** A card that stays: what went wrong, why, what to do. `error` is what api() threw or a job's {code, message, hint}. */
export function trouble(error, { retry = null } = {}) {
  const { message, hint } = said(error);
  return h('div.dl-notice.bad', { role: 'alert' }, icon('warn'),
    h('div', {}, h('strong', {}, message), hint && h('p', {}, hint)),
    retry && button('Try again', { small: true, icon: 'retry', onclick: retry }));
}

/** Grey shapes while something is on its way: skeleton(3) lines, skeleton(8, 'card') cards. */
export function skeleton(count = 3, kind = 'line') {
  const shapes = Array.from({ length: count }, () => h('i.dl-skel', { class: kind }));
  return h('div.dl-skels', { role: 'status', 'aria-label': 'loading', class: kind }, shapes);
}

/** A state as a dot and a word. */
export function state(name) {
  return h('span.dl-state', { dataset: { state: name } }, h('i'), name);
}

/** A chip; with onclick a button. */
export function chip(text, { onclick = null, title = null, kind = '', icon: name = null } = {}) {
  const inner = [name && icon(name, 12), text];
  if (onclick) return h('button.dl-chip', { type: 'button', class: kind, title, onclick }, inner);
  return h('span.dl-chip', { class: kind, title }, inner);
}
