// SPDX-License-Identifier: Apache-2.0
// <dl-export>: a finished run's files, the check of them beside the scene, and the same in another form: a job again.
import { api, button, bytes, count, duration, empty, field, figure, fill, freshKey, go, h, href, icon, Panel, poll, progress, query, said, set, skeleton, state, trouble } from '/static/ui.js';
import { unmade } from './panels/parts.js';
import { FORMATS, KINDS, PRESETS, TEXTURES } from './export/table.js';

const ENDED = ['succeeded', 'failed', 'cancelled', 'interrupted'];
const POLL = 800;

class Export extends Panel {
  static tab = 'export';

  show(route) {
    if (!route.job) {
      this.run = null;
      this.choose();
      return;
    }
    if (this.run === route.job && this.firstChild) {
      if (route.export) this.follow(route.export);
      return;
    }
    this.run = route.job;
    fill(this, h('div.dl-export', {}, skeleton(1, 'card'), skeleton(8)));
    this.load().then(() => route.export && this.run === route.job && this.follow(route.export));
  }

  hide() {
    this.viewer?.dispose();
    this.viewer = null;
    this.run = null;
    this.following = null;
  }

  /** Without a run in the URL: which one? */
  async choose() {
    fill(this, skeleton(8, 'card'));
    try {
      const { runs } = await api('GET', `/v1/runs${query({ limit: 48 })}`);
      const done = runs.filter((run) => run.poster && run.state === 'succeeded');
      if (this.run) return;
      if (!done.length) {
        fill(this, unmade('export', 'Nothing to export yet', 'A finished run can be written as GLB, USDZ, OBJ, splats and more, as often as you like.'));
        return;
      }
      fill(this, h('div.dl-stack', {}, h('h1', {}, 'Which run?'), h('div.dl-grid', {}, done.map((run) =>
        h('a.dl-card', { href: href({ tab: 'export', job: run.id }) },
          h('img.dl-pic', { src: run.poster, alt: '', loading: 'lazy', width: 256, height: 256 }), h('span.body.dl-clip', {}, run.prompt))))));
    } catch (error) {
      fill(this, trouble(error, { retry: () => this.choose() }));
    }
  }

  async load() {
    const id = this.run;
    try {
      const run = await api('GET', `/v1/runs/${encodeURIComponent(id)}`);
      if (this.run !== id) return;
      this.draw(run);
    } catch (error) {
      if (this.run !== id) return;
      const back = button('Choose a run', { kind: 'primary', onclick: () => go({ tab: 'export' }) });
      fill(this, error.status === 404 ? empty({ icon: 'search', title: said(error).message, text: said(error).hint, action: back }) : trouble(error, { retry: () => this.load() }));
    }
  }

  draw(run) {
    this.status = h('div', { 'aria-live': 'polite' });
    this.files = h('div');
    this.checked = h('div');
    this.view = h('div.dl-stage');
    const title = h('div.dl-row.still', {}, h('h1.dl-clip.dl-grow', {}, run.prompt), h('a.dl-btn.quiet.dl-hide-narrow', { href: href({ tab: 'watch', job: run.id }) }, icon('watch'), 'Watch'), h('a.dl-btn.quiet', { href: '/?tab=export' }, 'Another run'));
    fill(this, h('div.dl-export', {},
      h('div.dl-stack', {}, title, this.view, this.checked),
      h('div.dl-stack.wide', {}, this.files, this.formOf(run))));
    this.results(run);
  }

  /** What is there: a view of the first GLB, a line a file, and how well the file shows what the scene showed. */
  results(run) {
    const written = (run.files ?? []).filter(({ name, kind }) => /^(export|painted)\//.test(name) && kind !== 'report');
    const assets = written.filter(({ kind }) => kind !== 'pictures').sort((a, b) => painted(b) - painted(a));
    const pictures = written.filter(({ kind }) => kind === 'pictures');
    const line = (one, i) => h('li', {},
      h('span.dl-grow', {}, h('strong', {}, one.name.replace(/^export\//, '')), h('small', {}, painted(one) ? 'your file with its new materials' : KINDS[one.kind] ?? one.kind)),
      h('span.dl-dim.dl-num', {}, bytes(one.bytes)),
      h('a.dl-btn', { class: i === 0 ? 'primary' : '', href: one.url, download: one.name.split('/').at(-1), 'aria-label': `Download ${one.name}` }, icon('download'), h('span', {}, 'Download')));
    fill(this.files, h('section.dl-stack', {}, h('h2', {}, 'Files'),
      assets.length ? h('ul.dl-files', {}, assets.map(line)) : h('p.dl-dim', {}, 'None yet.'),
      pictures.length > 0 && h('details', {}, h('summary', {}, `Pictures (${pictures.length})`), h('ul.dl-files', {}, pictures.map((one) => line(one, 1))))));
    const [preset, report] = Object.entries(run.reports ?? {}).find(([name]) => name === this.preset) ?? Object.entries(run.reports ?? {})[0] ?? ['none', null];
    const at = preset === 'none' ? 'export/check.png' : `export/${preset}/check.png`;
    this.check(report, pictures.find(({ name }) => name === at));
    this.turn(run, assets);
  }

  check(report, picture) {
    const { check = null, mesh = null } = report ?? {};
    if (!check) {
      fill(this.checked);
      return;
    }
    const size = mesh?.metres?.map((side) => figure(side)).join(' × ');
    const facts = [
      ['Silhouette against the scene', check.silhouette_iou !== undefined && `${(100 * check.silhouette_iou).toFixed(1)} %`],
      ['Pictures against the scene', check.psnr !== undefined && `${figure(check.psnr)} dB`],
      ['Triangles', mesh && count(mesh.triangles)],
      ['Vertices', mesh && count(mesh.vertices)],
      ['Size', size && `${size} m`],
      ['Watertight', mesh && (mesh.watertight ? 'yes' : `no, ${count(mesh.open_edges)} open edges`)],
      ['Overlap of texture coordinates', mesh?.uv_overlap !== undefined && `${figure(100 * mesh.uv_overlap)} %`],
    ].filter(([, value]) => value);
    const legend = ['Scene', 'File', 'Difference'].map((name) => h('span', {}, name));
    const image = h('img.dl-pic', { alt: 'The scene, the file as another program reads it, and their difference, from six sides', width: 576, height: 288 });
    if (picture) refreshed(image, picture.url);
    fill(this.checked, h('section.dl-stack', {}, h('h2', {}, 'Read back and compared'),
      picture && h('figure.dl-check-picture', {}, h('figcaption', { 'aria-hidden': 'true' }, legend), image),
      h('dl.dl-facts.dl-figures', {}, facts.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value)))),
      (report.notes ?? []).map((note) => h('p.dl-notice.warn', {}, icon('info'), h('span', {}, note)))));
  }

  async turn(run, assets) {
    const model = assets.find(({ name }) => /\.glb$/.test(name));
    this.viewer?.dispose();
    this.viewer = null;
    fill(this.view, run.poster && h('img', { src: run.poster, alt: run.prompt }));
    if (!model) return;
    const box = h('div.view');
    try {
      const { Viewer } = await import('/static/viewer.js');
      if (!this.shown) return;
      this.view.append(box);
      this.viewer = new Viewer(box, { background: 'auto', label: run.prompt });
      await this.viewer.load(model.url, { keepCamera: false });
      this.view.querySelector(':scope > img')?.remove();
    } catch {
      if (this.view.querySelector(':scope > img')) box.remove(); // the picture stays
    }
  }

  formOf(run) {
    const chosen = new Set(['glb']);
    const boxes = FORMATS.map(({ name, text, group }) => ({ group, element: h('label.dl-format', { title: text }, h('input.dl-tick', { type: 'checkbox', checked: chosen.has(name), onchange: (event) => chosen[event.target.checked ? 'add' : 'delete'](name) }), h('span', {}, h('strong', {}, name), h('small', {}, text))) }));
    const groups = [...new Set(FORMATS.map(({ group }) => group))].map((group) => h('div.formats', { role: 'group', 'aria-label': group }, h('h3', {}, group), boxes.filter((one) => one.group === group).map(({ element }) => element)));
    const select = (options, value) => h('select.dl-input', {}, options.map(([key, text]) => h('option', { value: key, selected: key === value }, text)));
    const fields = {
      preset: field('For', select(PRESETS, 'none')),
      faces: field('Triangles, at most', h('input.dl-input', { type: 'number', min: 64, max: 5_000_000, value: 40_000 })),
      texture: field('Texture', select(TEXTURES, '1024')),
      height: field('Height in metres', h('input.dl-input', { type: 'number', min: 0.001, max: 100_000, step: 'any', placeholder: 'as it is' })),
      origin: field('Origin', select([['centre', 'Centre'], ['bottom', 'Feet']], 'centre')),
    };
    this.fields = fields;
    this.formError = h('div', { 'aria-live': 'assertive' });
    const send = button('Write files', { kind: 'primary', icon: 'export', onclick: () => this.start(chosen, send) });
    this.send = send;
    return h('form.dl-panel.dl-stack', { novalidate: true, onsubmit: (event) => event.preventDefault() },
      h('h2', {}, 'Write it again'), groups, h('div.dl-export-fields', {}, Object.values(fields)), this.formError, this.status, h('div.dl-row', {}, send, h('span.dl-dim.dl-small', {}, 'The run itself is not touched.')));
  }

  async start(chosen, send) {
    for (const one of Object.values(this.fields)) one.complain('');
    fill(this.formError);
    const value = (name) => this.fields[name].querySelector('.dl-input').value;
    const wrong = Object.values(this.fields).find((one) => !one.querySelector('.dl-input').checkValidity());
    if (wrong || !chosen.size) {
      if (wrong) {
        wrong.complain(wrong.querySelector('.dl-input').validationMessage);
        wrong.querySelector('.dl-input').focus();
      } else fill(this.formError, trouble({ message: 'Choose a format.' }));
      return;
    }
    const body = { formats: [...chosen], preset: value('preset'), faces: Number(value('faces')), texture: Number(value('texture')), origin: value('origin') };
    if (value('height')) body.height = Number(value('height'));
    this.preset = body.preset;
    set(send, { disabled: true });
    try {
      const job = await api('POST', `/v1/jobs/${encodeURIComponent(this.run)}/export`, body, { key: freshKey() });
      go({ tab: 'export', job: this.run, export: job.id }, { replace: true });
      this.follow(job.id);
    } catch (error) {
      set(send, { disabled: false });
      const loose = (error.fields ?? []).filter(({ loc, msg }) => {
        const name = (Array.isArray(loc) ? loc : [loc]).at(-1);
        this.fields[name]?.complain(msg);
        return !this.fields[name];
      });
      if (!error.fields?.length || loose.length) fill(this.formError, trouble(loose.length ? { message: loose.map(({ msg }) => msg).join('; ') } : error));
    }
  }

  /** The job that writes: what it is at, then the new files in place of the old ones. */
  follow(id) {
    if (this.following === id || !this.status) return;
    this.following = id;
    set(this.send, { disabled: true });
    const bar = progress(null, 'export');
    const line = h('div.dl-row.between', {});
    const started = Date.now();
    fill(this.status, h('div.dl-stack.tight', {}, line, bar));
    const following = poll(async () => {
      const job = await api('GET', `/v1/jobs/${encodeURIComponent(id)}`);
      if (this.following !== id) {
        following.stop();
        return;
      }
      if (!ENDED.includes(job.state)) {
        bar.show(job.progress > 0 && job.progress < 1 ? job.progress : null);
        const waits = job.state === 'queued' ? (job.position > 1 ? `${job.position - 1} before it` : 'starts now') : job.stage || 'writing';
        fill(line, state(job.state), h('span.dl-dim.dl-small', {}, `${waits}, ${duration((Date.now() - started) / 1000)}`));
        return;
      }
      following.stop();
      this.ended(job);
    }, POLL);
    this.track(following);
  }

  async ended(job) {
    this.following = null;
    set(this.send, { disabled: false });
    go({ tab: 'export', job: this.run }, { replace: true });
    if (job.state !== 'succeeded') {
      fill(this.status, trouble(job.error ?? { message: `The export was ${job.state}.`, hint: 'The files that were there are as they were.' }));
      return;
    }
    fill(this.status, h('p.dl-notice.good', {}, icon('check'), h('span', {}, 'Written and read back.')));
    try {
      const run = await api('GET', `/v1/runs/${encodeURIComponent(this.run)}`);
      this.results(run);
    } catch (error) {
      fill(this.status, trouble(error, { retry: () => this.load() }));
    }
  }
}

/** A picture that is written again keeps its name: it is asked for anew, past what the page remembers of it. */
async function refreshed(image, url) {
  try {
    const answer = await fetch(url, { cache: 'no-cache', credentials: 'same-origin' });
    if (!answer.ok) throw new Error(answer.statusText);
    image.src = URL.createObjectURL(await answer.blob());
    image.addEventListener('load', () => URL.revokeObjectURL(image.src), { once: true });
  } catch {
    image.closest('figure')?.remove(); // the figures stay
  }
}

const painted = ({ name }) => name.startsWith('painted/');

customElements.define('dl-export', Export);
