// SPDX-License-Identifier: Apache-2.0
// A soft shadow where an object meets the floor: what of it is near the floor darkens the floor below, sharply from
// close by and softly from farther up. From samples of surfaces and of Gaussians alike.

import * as THREE from 'three/webgpu';

const CELLS = 96;
const REACH = 1.7; // half the floor's side, in radii of the object
const LAYERS = [[0.06, 1.2, 0.55], [0.25, 4, 0.38], [0.8, 9, 0.28]]; // height in radii, blur in cells, darkness

export class Ground {
  constructor() {
    this.texture = new THREE.DataTexture(new Uint8Array(4 * CELLS * CELLS), CELLS, CELLS);
    this.texture.minFilter = this.texture.magFilter = THREE.LinearFilter;
    const material = new THREE.MeshBasicMaterial({
      map: this.texture, transparent: true, depthWrite: false, toneMapped: false,
    });
    this.object = new THREE.Mesh(new THREE.PlaneGeometry(1, 1).rotateX(-Math.PI / 2), material);
    this.object.renderOrder = -1;
    this.object.visible = false;
  }

  // From samples [x, y, z, weight, ...] in the world and where the object is.
  follow(samples, { centre, radius, floor }) {
    const side = 2 * REACH * radius;
    const shade = new Float32Array(CELLS * CELLS);
    for (const [height, blur, darkness] of LAYERS) {
      const layer = new Float32Array(CELLS * CELLS);
      for (let i = 0; i < samples.length; i += 4) {
        const above = (samples[i + 1] - floor) / radius;
        if (above > height) continue;
        const x = Math.round(((samples[i] - centre.x) / side + 0.5) * CELLS - 0.5);
        const z = Math.round(((samples[i + 2] - centre.z) / side + 0.5) * CELLS - 0.5);
        if (x < 0 || z < 0 || x >= CELLS || z >= CELLS) continue;
        layer[z * CELLS + x] = Math.max(layer[z * CELLS + x], samples[i + 3] * (1 - Math.max(above, 0) / height));
      }
      const soft = blurred(blurred(layer, blur), blur);
      for (let i = 0; i < shade.length; i++) shade[i] = 1 - (1 - shade[i]) * (1 - darkness * Math.min(soft[i] * 1.4, 1));
    }
    const { data } = this.texture.image;
    for (let z = 0; z < CELLS; z++) {
      for (let x = 0; x < CELLS; x++) {
        const out = Math.hypot(x / CELLS - 0.5, z / CELLS - 0.5) * 2;
        const fade = Math.min(Math.max((1 - out) / 0.25, 0), 1);
        data[4 * ((CELLS - 1 - z) * CELLS + x) + 3] = Math.round(255 * shade[z * CELLS + x] * fade);
      }
    }
    this.texture.needsUpdate = true;
    this.object.scale.set(side, 1, side);
    this.object.position.set(centre.x, floor - 0.002 * radius, centre.z);
    this.object.visible = true;
  }

  dispose() {
    this.texture.dispose();
    this.object.geometry.dispose();
    this.object.material.dispose();
  }
}

// A box of 2 r + 1 cells both ways, r not whole: its edge cells count in part.
function blurred(cells, r) {
  const whole = Math.floor(r);
  const part = r - whole;
  const norm = 1 / (2 * r + 1);
  let from = cells;
  for (const [step, across] of [[1, CELLS], [CELLS, 1]]) {
    const to = new Float32Array(cells.length);
    for (let line = 0; line < CELLS; line++) {
      const at = (i) => (i < 0 || i >= CELLS ? 0 : from[line * across + i * step]);
      for (let i = 0; i < CELLS; i++) {
        let sum = part * (at(i - whole - 1) + at(i + whole + 1));
        for (let k = -whole; k <= whole; k++) sum += at(i + k);
        to[line * across + i * step] = sum * norm;
      }
    }
    from = to;
  }
  return from;
}
