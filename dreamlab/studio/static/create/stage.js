// SPDX-License-Identifier: Apache-2.0
// Beside the form: on a first visit a finished example, later what was made last, large.
import { ago, api, duration, fill, h, href, icon, query, skeleton, state, trouble } from '/static/ui.js';

const EXAMPLE = '/static/example';
const SHOWN = 7;

export class Stage {
  constructor() {
    this.element = h('div.dl-made');
  }

  /** Whether there are runs; draws whichever it is. */
  async load() {
    if (!this.drawn) fill(this.element, skeleton(1, 'card'));
    try {
      const { runs } = await api('GET', `/v1/runs${query({ limit: SHOWN })}`);
      if (runs.length) this.recent(runs);
      else this.example(); // its 3D view takes a while; nothing waits for it
      return runs.length > 0;
    } catch (error) {
      if (!this.drawn) fill(this.element, trouble(error, { retry: () => this.load() }));
      return true;
    }
  }

  async example() {
    if (this.drawn === 'example') return;
    this.drawn = 'example';
    const said = await (await fetch(`${EXAMPLE}/example.json`)).json();
    const stage = h('div.dl-stage', {}, h('img', { src: `${EXAMPLE}/poster.webp`, alt: said.prompt, width: 512, height: 512 }));
    const glb = h('a', { href: `${EXAMPLE}/model.glb`, download: 'mushroom.glb' }, 'the GLB');
    fill(this.element, stage, h('p.caption', {},
      h('span', {}, `“${said.prompt}”, made from noise in ${duration(said.seconds)} on ${said.device}. Turn it; take `, glb, '.')));
    try {
      const { Viewer } = await import('/static/viewer.js');
      const box = h('div.view');
      stage.append(box);
      this.viewer = new Viewer(box, { background: 'auto', label: `example: ${said.prompt}` });
      await this.viewer.load(`${EXAMPLE}/model.glb`, { keepCamera: false });
      stage.querySelector('img').remove();
    } catch {
      stage.querySelector('.view')?.remove(); // the picture stays
    }
  }

  recent(runs) {
    this.viewer?.dispose();
    this.viewer = null;
    this.drawn = 'recent';
    const [first, ...others] = runs;
    fill(this.element, this.large(first), others.length > 0 && h('div.strip', {}, others.map((run) => this.small(run))));
  }

  large(run) {
    const picture = run.poster ? seen(h('img', { src: run.poster, alt: run.prompt, width: 512, height: 512 })) : h('div.dl-empty', {}, icon('watch', 28), h('p', {}, 'No picture yet'));
    return h('a.dl-latest', { href: href({ tab: 'watch', job: run.id }) },
      h('div.dl-stage', {}, picture),
      h('span.caption', {}, h('span.dl-clip.dl-grow', {}, run.prompt), state(run.state), h('span.dl-dim.dl-small', {}, ago(run.created))));
  }

  small(run) {
    const picture = run.poster ? seen(h('img', { src: run.poster, alt: '', loading: 'lazy', width: 96, height: 96 })) : icon('watch', 20);
    return h('a', { href: href({ tab: 'watch', job: run.id }), 'aria-label': run.prompt, title: run.prompt }, picture);
  }
}

/** Of a run that is under way there are four views in a row: the first is shown. */
function seen(image) {
  image.addEventListener('load', () => image.classList.toggle('views', image.naturalWidth > 2 * image.naturalHeight));
  return image;
}
