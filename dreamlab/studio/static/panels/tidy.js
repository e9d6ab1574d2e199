// SPDX-License-Identifier: Apache-2.0
// What could go: old runs, or the oldest above a size. First it is shown, then it goes to the trash, and can come back.

import { api, bytes, button, dialog, field, fill, freshKey, h, many, query, skeleton, toast, trouble } from '../ui.js';
import { act } from './parts.js';

const PAUSE = 250; // ms after the last key

/** Asks, shows and does it; `done` is told when runs went or came back. */
export function tidy(done) {
  const days = h('input.dl-input', { type: 'number', min: 0, max: 100000, step: 1, value: 30 });
  const size = h('input.dl-input', { type: 'number', min: 0, step: 100, placeholder: 'any' });
  const told = h('div.dlt-told', { 'aria-live': 'polite' });
  const list = h('ul.dlt-list');
  const remove = button('Move to the trash', { icon: 'trash', kind: 'danger', disabled: true, onclick: () => carry() });
  let going = [];
  let timer = 0;
  const look = async () => {
    fill(list, skeleton(3));
    remove.disabled = true;
    try {
      const asked = { days: days.value, quota_mib: size.value };
      const found = await api('GET', `/v1/retention${query(asked)}`);
      if (asked.days !== days.value || asked.quota_mib !== size.value) return;
      going = found.policy && (asked.days || asked.quota_mib) ? found.going.filter((one) => one.why.startsWith('ended') || one.why.startsWith('above')) : [];
      say(found);
    } catch (error) {
      fill(list, trouble(error, { retry: look }));
    }
  };
  const say = ({ used, scheduled }) => {
    const all = going.reduce((sum, one) => sum + one.bytes, 0);
    fill(
      told,
      h('p', {}, going.length ? h('strong', {}, `${many(going.length, 'run')}, ${bytes(all)}`) : 'Nothing would go', ` of ${bytes(used)} here.`),
      h('p.dl-dim.dl-small', {}, scheduled ? 'A rule is set on this machine: some go by themselves every hour.' : 'Nothing goes by itself. Favourites, and what waits or runs, always stay.'),
    );
    const row = ({ prompt, why, bytes: each }) => h('li', {}, h('span.dl-clip', {}, prompt), h('span.dl-dim.dl-small', {}, why), h('span.dl-num.dl-small', {}, bytes(each)));
    fill(list, going.map(row));
    remove.disabled = !going.length;
  };
  const carry = async () => {
    const ids = going.map((one) => one.job);
    const gone = await act(remove, async () => {
      for (const id of ids) await api('DELETE', `/v1/jobs/${id}`);
    });
    box.close();
    done();
    if (!gone) return;
    const undo = async () => {
      for (const id of ids) await api('POST', `/v1/jobs/${id}/restore`, {}, { key: freshKey() });
      done();
    };
    toast(`${many(ids.length, 'run')} went to the trash.`, { action: { label: 'Undo', onclick: () => act(null, undo) }, seconds: 8 });
  };
  for (const input of [days, size]) {
    input.addEventListener('input', () => {
      clearTimeout(timer);
      timer = setTimeout(look, PAUSE);
    });
  }
  const body = h('div.dl-stack', {}, h('div.dlp-form', {}, field('Older than, days', days), field('Keep at most, MiB', size, { hint: 'the oldest go first' })), told, list);
  const box = dialog({ title: 'Tidy up', body, actions: [button('Close', { onclick: () => box.close() }), remove] });
  look();
}
