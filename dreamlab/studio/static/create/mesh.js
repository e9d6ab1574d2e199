// SPDX-License-Identifier: Apache-2.0
// A mesh of one's own to texture: dropped or chosen, sent, and shown in the 3D view.
import { api, button, bytes, count, fill, h, skeleton, trouble } from '/static/ui.js';
import { drop } from './drop.js';

const SEEN = /\.(glb|obj|ply|stl)$/i; // what the view can draw by itself

export class Mesh {
  constructor() {
    Object.assign(this, { id: null, file: null, name: '' });
    this.zone = drop({
      glyph: 'cube', title: 'A mesh of your own', text: 'GLB, OBJ, PLY or STL. Vertices, texture coordinates, skin and animation stay as they are.',
      accept: '.glb,.obj,.ply,.stl,model/gltf-binary', label: 'Choose a mesh', take: (file) => this.take(file),
    });
    this.stage = h('div.dl-stage');
    this.facts = h('div.dl-taken');
    this.error = h('div');
    this.element = h('div.dl-picture');
    this.draw();
  }

  draw() {
    fill(this.element, this.file ? this.stage : this.zone, this.error, this.file && this.facts);
  }

  async take(file) {
    fill(this.error);
    this.zone.busy('Sending…');
    try {
      const { id } = await api('POST', '/v1/uploads', file, { raw: file.name });
      Object.assign(this, { id, file, name: file.name });
      fill(this.facts, skeleton(1));
      this.draw();
      await Promise.all([this.look(file), this.read(id)]);
    } catch (error) {
      fill(this.error, trouble(error));
    } finally {
      this.zone.busy('');
    }
  }

  async look(file) {
    this.viewer?.dispose();
    this.viewer = null;
    if (!SEEN.test(file.name)) {
      fill(this.stage, h('div.dl-empty', {}, h('h3', {}, file.name), h('p', {}, 'It is here. The view draws GLB; this kind is seen once it is painted.')));
      return;
    }
    fill(this.stage);
    const url = URL.createObjectURL(file);
    try {
      const { Viewer } = await import('/static/viewer.js');
      this.viewer = new Viewer(this.stage, { background: 'auto', label: `your mesh ${file.name}` });
      await this.viewer.load(url, { keepCamera: false });
    } catch {
      return; // the view says itself what is wrong; the mesh is sent all the same
    } finally {
      URL.revokeObjectURL(url);
    }
  }

  async read(id) {
    const another = button('Another', { icon: 'upload', kind: 'quiet', small: true, onclick: () => this.clear() });
    const said = [h('strong', {}, this.name), `, ${bytes(this.file.size)}`];
    try {
      const { facts = {} } = await api('POST', `/v1/uploads/${id}/read`, {});
      if (facts.triangles) said.push(`, ${count(facts.triangles)} triangles`);
      if (facts.parts > 1) said.push(`, ${facts.parts} parts`);
      if (facts.uv === false) said.push(', without texture coordinates: it gets its own');
    } catch (error) {
      fill(this.error, trouble(error));
    }
    fill(this.facts, h('div.dl-row.between', {}, h('p', {}, said), another));
  }

  clear() {
    this.viewer?.dispose();
    Object.assign(this, { viewer: null, id: null, file: null });
    fill(this.error);
    this.draw();
  }

  /** Why it cannot be sent yet. */
  get lacks() {
    return this.id ? '' : 'Give it a mesh first.';
  }

  async files() {
    return { mesh: this.id };
  }
}
