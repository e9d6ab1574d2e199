// SPDX-License-Identifier: Apache-2.0
// What can be written, in the words of dreamlab/core/formats.py; a test holds the names against it.

const MESH = 'Mesh';
const SPLATS = 'Gaussians';
const BLENDER = 'Where Blender is found';

export const FORMATS = [
  { name: 'glb', group: MESH, text: 'all in one file, opens everywhere' },
  { name: 'gltf', group: MESH, text: 'as text, pictures beside it' },
  { name: 'usdz', group: MESH, text: 'iPhone, Mac, Omniverse' },
  { name: 'obj', group: MESH, text: 'with an MTL' },
  { name: 'stl', group: MESH, text: 'for printers' },
  { name: 'ply', group: MESH, text: 'colours of vertices' },
  { name: 'maps', group: MESH, text: 'loose pictures of the material' },
  { name: 'splat-glb', group: SPLATS, text: 'glTF, the format of record' },
  { name: 'splat-ply', group: SPLATS, text: 'as 3DGS writes it' },
  { name: 'splat', group: SPLATS, text: '32 bytes each, for the web' },
  { name: 'splat-frames', group: SPLATS, text: 'a PLY for each moment' },
  { name: 'spz', group: SPLATS, text: 'a tenth of the PLY' },
  { name: 'fbx', group: BLENDER, text: 'for game engines' },
  { name: 'abc', group: BLENDER, text: 'Alembic' },
  { name: 'blend', group: BLENDER, text: 'a Blender file' },
];

export const KINDS = Object.fromEntries(FORMATS.map(({ name, text }) => [name, text]));

export const PRESETS = [['none', 'Everything'], ['blender', 'Blender'], ['unity', 'Unity'], ['unreal', 'Unreal'], ['godot', 'Godot'], ['web', 'The web']];

export const TEXTURES = [['0', 'Colours of vertices'], ['512', '512'], ['1024', '1024'], ['2048', '2048'], ['4096', '4096']];
