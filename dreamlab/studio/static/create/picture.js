// SPDX-License-Identifier: Apache-2.0
// A picture to follow: dropped, pasted or chosen; cropped; its mask corrected; what it is taken for, and overruled.
import { api, button, bytes, chip, fill, h, icon, set, skeleton, trouble } from '/static/ui.js';
import { drop } from './drop.js';
import { MaskEditor } from './mask.js';

// Its own sides, by the azimuth that they are seen from.
const SIDES = [['front', 0], ['front left', 45], ['left', 90], ['back left', 135], ['back', 180], ['back right', -135], ['right', -90], ['front right', -45]];
const COLOURS = ['red', 'orange', 'yellow', 'green', 'cyan', 'blue', 'purple', 'pink', 'brown', 'white', 'gray', 'black'];
const SIDE = /\.guidance\.side_deg$/;

export class Picture {
  constructor(draft, settings) {
    Object.assign(this, { draft, settings, id: null, file: null, name: '', said: null });
    this.editor = new MaskEditor({ onchange: () => this.drew(), oncrop: (box) => this.crop(box) });
    this.zone = drop({
      glyph: 'image', title: 'A picture of one object', text: 'Drop it here, paste it, or choose a file. A plain background is cut away by itself.',
      accept: 'image/png,image/jpeg,image/webp', label: 'Choose a picture', take: (file) => this.take(file),
    });
    this.facts = h('div.dl-taken');
    this.error = h('div');
    this.element = h('div.dl-picture');
    document.addEventListener('paste', (event) => this.pasted(event));
    draft.addEventListener('form', () => this.said && this.tell());
    this.draw();
  }

  draw() {
    fill(this.element, this.file ? this.editor.element : this.zone, this.error, this.file && this.facts);
  }

  pasted(event) {
    if (this.draft.mode !== 'picture' || !this.element.checkVisibility()) return;
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith('image/'));
    if (!file) return;
    event.preventDefault();
    this.take(file);
  }

  /** Shown at once; meanwhile it is sent and read. */
  async take(file) {
    fill(this.error);
    this.zone.busy('Reading…');
    try {
      const picture = await createImageBitmap(file);
      Object.assign(this, { file, name: file.name || 'picture.png', picture, id: null, said: null, again: null, maskAt: null });
      await this.editor.show(picture);
      this.draw();
      await this.send(file);
    } catch (error) {
      const unread = error instanceof DOMException ? { message: `${file.name || 'This'} is not a picture that a browser can read.`, hint: 'PNG, JPEG or WEBP.' } : error;
      fill(this.error, trouble(unread, { retry: this.file ? () => this.take(file) : null }));
    } finally {
      this.zone.busy('');
    }
  }

  async send(file) {
    fill(this.facts, skeleton(2));
    const { id } = await api('POST', '/v1/uploads', file, { raw: this.name });
    this.id = id;
    await this.read();
  }

  /** What it is taken for, by the mask if one was drawn. */
  async read() {
    const { strokes } = this.editor;
    fill(this.facts, skeleton(2));
    try {
      const mask = await this.mask();
      this.said = await api('POST', `/v1/uploads/${this.id}/read`, mask ? { mask } : {});
      if (!mask) this.editor.setMask(await loaded(this.said.mask_url));
    } catch (error) {
      this.said = null;
      if (error.code === 'no_object') this.lost(error.message);
      else fill(this.facts, trouble(error, { retry: () => this.read() }));
      return;
    }
    Object.assign(this, { kind: null, main: null, readAt: strokes });
    this.tell();
    this.draft.dispatchEvent(new CustomEvent('read'));
  }

  /** No object was found: the brush finds it. */
  lost(said) {
    this.editor.bare();
    this.again = button('Read it again', { icon: 'retry', small: true, disabled: !this.editor.drawn, onclick: () => this.read() });
    fill(this.facts, h('div.dl-notice.warn', { role: 'alert' }, icon('brush'),
      h('div', {}, h('strong', {}, 'Where is the object?'), h('p', {}, `Not seen: ${said}. Paint over it, then have it read again; or choose another picture.`),
        h('div.dl-row.tight.ways', {}, this.again, button('Another', { icon: 'upload', kind: 'quiet', small: true, onclick: () => this.clear() })))));
  }

  /** A stroke: what was read may no longer hold. */
  drew() {
    if (this.again) set(this.again, { hidden: Boolean(this.said) && this.editor.strokes === this.readAt, disabled: !this.said && !this.editor.drawn });
  }

  /** The id of the mask, if a person has drawn; each as it stands is sent once. */
  async mask() {
    if (!this.editor.drawn) return null;
    const { strokes } = this.editor;
    if (this.maskAt !== strokes) this.maskId = (await api('POST', '/v1/uploads', await this.editor.blob(), { raw: 'mask.png' })).id;
    this.maskAt = strokes;
    return this.maskId;
  }

  async crop([left, top, width, height]) {
    const canvas = h('canvas', { width, height });
    canvas.getContext('2d').drawImage(this.picture, left, top, width, height, 0, 0, width, height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
    this.take(new File([blob], this.name.replace(/(\.\w+)?$/, '-cropped.png'), { type: 'image/png' }));
  }

  clear() {
    Object.assign(this, { file: null, id: null, said: null, picture: null, again: null });
    fill(this.error);
    this.draw();
  }

  /** What it is taken for. The prompt overrules words; the side is a setting of the recipe. */
  tell() {
    const { kinds = [], colours = [], side, prompt = '' } = this.said;
    this.main ??= colours[0] ?? '';
    this.kind ??= (prompt && kinds[0]?.name) || '';
    const others = kinds.slice(0, 4).map(({ name, p }) => chip(`${name} ${p < 0.01 ? '< 1' : Math.round(100 * p)} %`, {
      kind: name === this.kind ? 'on' : '', title: `It is a ${name}`, onclick: () => this.overrule({ kind: name }),
    }));
    const tints = [...new Set([...colours, ...COLOURS])].map((name) => h('option', { value: name, selected: name === this.main }, name));
    const row = (name, ...what) => h('div.fact', {}, h('span.dl-label', {}, name), h('div.dl-row.tight', {}, what));
    this.again = button('Read it again', { icon: 'retry', kind: 'quiet', small: true, hidden: this.editor.strokes === this.readAt, title: 'By the mask as it is now', onclick: () => this.read() });
    fill(this.facts,
      h('div.dl-row.between', {},
        prompt ? h('p', {}, 'Taken for ', h('strong', {}, prompt)) : h('p', {}, h('strong', {}, 'It may be none of what the prior knows. '), 'Say what it is, or its shape is carried by the picture alone.'),
        h('div.dl-row.tight', {},
          h('span.dl-dim.dl-small', {}, `${this.picture.width} × ${this.picture.height}, ${bytes(this.file.size)}`),
          this.again,
          button('Another', { icon: 'upload', kind: 'quiet', small: true, onclick: () => this.clear() }))),
      others.length > 0 && row('It is a', others),
      colours.length > 0 && h('div.fact', {}, h('label.dl-label', { for: 'dl-main' }, 'Mainly'),
        h('select.dl-input', { id: 'dl-main', onchange: (event) => this.overrule({ main: event.target.value }) }, tints)),
      this.side(side));
  }

  /** Says it in the prompt, which counts for more than what was read. */
  overrule({ kind = this.kind || this.said.kinds?.[0]?.name, main = this.main }) {
    const part = kind === this.said.kinds?.[0]?.name ? (this.said.prompt?.match(/ with .*$/)?.[0] ?? '') : '';
    Object.assign(this, { kind, main });
    const words = [main, kind].filter(Boolean).join(' ');
    this.draft.put({ prompt: `${/^[aeiou]/.test(words) ? 'an' : 'a'} ${words}${part}` });
    this.tell();
  }

  side(read) {
    const row = this.settings.form.find(({ path }) => SIDE.test(path));
    if (read === undefined || read === null) return null;
    const now = (row && this.draft.settings[row.path]) ?? (typeof read === 'number' ? read : SIDES.find(([name]) => name === read)?.[1] ?? 0);
    const nearest = SIDES.reduce((best, one) => (turn(one[1], now) < turn(best[1], now) ? one : best));
    if (!row) return h('div.fact', {}, h('span.dl-label', {}, 'It shows its'), h('span', {}, nearest[0]));
    const control = h('select.dl-input', { id: 'dl-side', onchange: () => this.draft.override(row.path, Number(control.value)) },
      SIDES.map(([name, degrees]) => h('option', { value: degrees, selected: degrees === nearest[1] }, name)));
    return h('div.fact', {}, h('label.dl-label', { for: 'dl-side' }, 'It shows its'), control);
  }

  /** Why it cannot be sent yet. */
  get lacks() {
    if (!this.id) return 'Give it a picture first.';
    return this.said || this.editor.drawn || !this.again ? '' : 'Paint over the object first: none was found in the picture.';
  }

  /** Ids for the request; a mask goes along when a person has drawn. */
  async files() {
    const mask = await this.mask();
    return mask ? { image: this.id, mask } : { image: this.id };
  }
}

const turn = (a, b) => Math.abs(((a - b + 540) % 360) - 180);

async function loaded(url) {
  const picture = new Image();
  picture.src = url;
  await picture.decode();
  return picture;
}
