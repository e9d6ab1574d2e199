// SPDX-License-Identifier: Apache-2.0
// What a file shows: its objects, its clip, where it is, and points on it.

import * as THREE from 'three/webgpu';
import { GLTFLoader } from 'three/addons/loaders/GLTFLoader.js';
import { GLTFGaussianSplatLoaderExtension } from 'three/addons/loaders/GLTFGaussianSplatLoaderExtension.js';
import { OBJLoader } from 'three/addons/loaders/OBJLoader.js';
import { PLYLoader } from 'three/addons/loaders/PLYLoader.js';
import { STLLoader } from 'three/addons/loaders/STLLoader.js';

const SAMPLES = 16000;
const MOMENTS = 6; // of a clip, at which it is asked where it is
const ENDS = [[0, 0, 0], [1.3, 0, 0], [-1.3, 0, 0], [0, 0, 1.3], [0, 0, -1.3], [0, -1.3, 0], [0, 1.3, 0]]; // of a Gaussian
const OUTSIDE = 0.01; // share of the Gaussians that may lie outside of where the cloud is said to be

export class Subject {
  static async read(bytes) {
    try {
      return new Subject(await parsed(bytes));
    } catch (error) {
      if (error instanceof Unknown) throw error;
      throw new Error(`the file is damaged, or not made for this view (${error?.message ?? error})`, { cause: error });
    }
  }

  constructor(gltf) {
    this.root = gltf.scene;
    this.meshes = [];
    this.clouds = [];
    this.wires = [];
    this.root.updateMatrixWorld(true);
    this.root.traverse((object) => {
      object.frustumCulled = false; // what moves leaves the box it began in
      if (object.isGaussianSplat) this.clouds.push(object);
      else if (object.isMesh || object.isPoints) this.meshes.push(object);
    });
    if (!this.meshes.length && !this.clouds.length) throw new Error('the file shows nothing');
    const clip = gltf.animations[0];
    this.mixer = clip ? new THREE.AnimationMixer(this.root) : null;
    this.duration = clip ? clip.duration : 0;
    this.mixer?.clipAction(clip).play();
    this.kind = this.clouds.length ? 'splat' : clip ? 'animation' : 'mesh';
  }

  get splats() {
    return this.clouds.length > 0;
  }

  get triangles() {
    const corners = (geometry) => geometry.index?.count ?? geometry.attributes.position.count;
    return this.meshes.reduce((sum, mesh) => sum + (mesh.isPoints ? 0 : corners(mesh.geometry) / 3), 0);
  }

  get gaussians() {
    return this.clouds.reduce((sum, cloud) => sum + cloud.splatGeometry.attributes.position.count, 0);
  }

  // Poses the clip at seconds from its start.
  pose(seconds) {
    this.mixer?.setTime(Math.min(seconds, this.duration - 1e-4)); // the very end is the start of the next round
    this.root.updateMatrixWorld(true);
  }

  // Points in the world [x, y, z, weight, ...], as it is posed.
  samples() {
    const found = [];
    const point = new THREE.Vector3();
    for (const mesh of this.meshes) {
      const count = mesh.geometry.attributes.position.count;
      const step = Math.max(1, Math.floor(count * this.meshes.length / SAMPLES));
      const corners = mesh.isPoints ? [] : coarse(mesh.geometry);
      for (let i = 0; i < count; i += step) {
        mesh.getVertexPosition?.(i, point) ?? point.fromBufferAttribute(mesh.geometry.attributes.position, i);
        point.applyMatrix4(mesh.matrixWorld);
        found.push(point.x, point.y, point.z, 1);
      }
      if (corners.length) spread(mesh, corners, found);
    }
    for (const cloud of this.clouds) {
      const { position, color, covariance } = cloud.splatGeometry.attributes;
      const step = Math.max(1, Math.floor(position.count * ENDS.length / SAMPLES));
      for (let i = 0; i < position.count; i += step) {
        const wide = [0, 3, 5].map((k) => Math.sqrt(Math.max(covariance.array[6 * i + k], 0)));
        const weight = Math.min(1, 2 * color.array[4 * i + 3] / 255);
        for (const [x, y, z] of ENDS) {
          point.fromBufferAttribute(position, i);
          point.set(point.x + x * wide[0], point.y + y * wide[1], point.z + z * wide[2]).applyMatrix4(cloud.matrixWorld);
          found.push(point.x, point.y, point.z, weight);
        }
      }
    }
    return found;
  }

  // Where it is, over its clip: what few Gaussians stray to does not count.
  bounds() {
    const box = new THREE.Box3();
    const seen = [];
    for (let i = 0; i < (this.mixer ? MOMENTS : 1); i++) {
      if (this.mixer) this.pose(this.duration * i / MOMENTS);
      const samples = this.samples();
      seen.push(samples);
      box.union(boxOf(samples, this.splats ? OUTSIDE : 0));
    }
    const centre = box.getCenter(new THREE.Vector3());
    const inside = box.clone().expandByScalar(1e-6);
    const point = new THREE.Vector3();
    let radius = 1e-6;
    for (const samples of seen) {
      for (let i = 0; i < samples.length; i += 4) {
        point.set(samples[i], samples[i + 1], samples[i + 2]);
        if (inside.containsPoint(point)) radius = Math.max(radius, point.distanceTo(centre));
      }
    }
    return { centre, radius, floor: box.min.y };
  }

  // Shows the triangles' edges over the surface.
  wire(on) {
    for (const wire of this.wires) {
      wire.removeFromParent();
      wire.material.dispose();
    }
    this.wires = [];
    for (const mesh of on ? this.meshes.filter((each) => !each.isPoints) : []) {
      const wire = mesh.clone(false);
      wire.material = new THREE.MeshBasicMaterial({
        color: 0x10131a, wireframe: true, transparent: true, opacity: 0.45, toneMapped: false, depthWrite: false,
      });
      wire.morphTargetInfluences = mesh.morphTargetInfluences; // moves with it
      wire.renderOrder = 1;
      mesh.parent.add(wire);
      mesh.material.polygonOffset = true;
      mesh.material.polygonOffsetFactor = mesh.material.polygonOffsetUnits = 1;
      this.wires.push(wire);
    }
  }

  dispose() {
    this.wire(false);
    this.mixer?.stopAllAction();
    for (const object of [...this.meshes, ...this.clouds]) {
      object.geometry.dispose();
      object.splatGeometry?.dispose();
      object.skeleton?.dispose();
      for (const value of Object.values(object.material)) if (value?.isTexture) value.dispose();
      object.material.dispose();
    }
  }
}

class Unknown extends Error {}

// A file as glTF's loader has it. What is no GLB is a surface of one colour, or of those of its vertices.
async function parsed(bytes) {
  const head = new Uint8Array(bytes, 0, Math.min(bytes.byteLength, 512));
  const words = String.fromCharCode(...head);
  if (words.startsWith('glTF')) {
    const loader = new GLTFLoader();
    loader.register((parser) => new GLTFGaussianSplatLoaderExtension(parser));
    return loader.parseAsync(bytes, '');
  }
  const scene = new THREE.Group();
  if (words.startsWith('ply')) scene.add(plain(new PLYLoader().parse(bytes)));
  else if (isStl(bytes, words)) scene.add(plain(new STLLoader().parse(bytes)));
  else if (/^\s*(#|v|vn|vt|o|g|s|mtllib|usemtl) /m.test(words)) {
    scene.add(new OBJLoader().parse(new TextDecoder().decode(bytes)));
    scene.traverse((object) => { if (object.isMesh) object.material = coat(object.geometry); });
  } else throw new Unknown('it is not a GLB, PLY, STL or OBJ file');
  return { scene, animations: [] };
}

// A text that says so, or as many triangles as its count and its length agree on.
function isStl(bytes, words) {
  if (/^\s*solid\b/.test(words) && words.includes('facet')) return true;
  return bytes.byteLength >= 84 && bytes.byteLength === 84 + 50 * new DataView(bytes).getUint32(80, true);
}

function plain(geometry) {
  if (!geometry.index && geometry.attributes.position.count % 3) {
    return new THREE.Points(geometry, new THREE.PointsMaterial({ vertexColors: Boolean(geometry.attributes.color) }));
  }
  return new THREE.Mesh(geometry, coat(geometry));
}

function coat(geometry) {
  if (!geometry.attributes.normal) geometry.computeVertexNormals();
  const vertexColors = Boolean(geometry.attributes.color);
  return new THREE.MeshStandardMaterial({ color: vertexColors ? 0xffffff : 0xb8bcc4, roughness: 0.7, vertexColors, side: THREE.DoubleSide });
}

// Triangles of a mesh so coarse that its corners alone say little of it.
function coarse(geometry) {
  const { index, attributes } = geometry;
  const corners = index?.count ?? attributes.position.count;
  if (corners > 6000) return [];
  return Array.from({ length: corners }, (_, i) => (index ? index.getX(i) : i));
}

// Points over each triangle.
function spread(mesh, corners, found) {
  const [a, b, c] = [new THREE.Vector3(), new THREE.Vector3(), new THREE.Vector3()];
  const parts = Math.min(24, Math.max(2, Math.round(Math.sqrt(SAMPLES * 6 / corners.length))));
  for (let t = 0; t < corners.length; t += 3) {
    [a, b, c].forEach((v, k) => mesh.getVertexPosition(corners[t + k], v).applyMatrix4(mesh.matrixWorld));
    for (let i = 0; i <= parts; i++) {
      for (let j = 0; j <= parts - i; j++) {
        const [u, v] = [i / parts, j / parts];
        const mixed = (axis) => a[axis] * (1 - u - v) + b[axis] * u + c[axis] * v;
        found.push(mixed('x'), mixed('y'), mixed('z'), 1);
      }
    }
  }
}

// The box of samples without a share of them at either end of each axis.
function boxOf(samples, outside) {
  const sides = [0, 1, 2].map((axis) => {
    const values = [];
    for (let i = 0; i < samples.length; i += 4) if (samples[i + 3] > 0.1) values.push(samples[i + axis]);
    if (!values.length) for (let i = 0; i < samples.length; i += 4) values.push(samples[i + axis]);
    values.sort((left, right) => left - right);
    const cut = Math.floor(values.length * outside);
    return [values[cut], values[values.length - 1 - cut]];
  });
  const corner = (end) => new THREE.Vector3(...sides.map((side) => side[end]));
  return new THREE.Box3(corner(0), corner(1));
}
