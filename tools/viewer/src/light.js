// SPDX-License-Identifier: Apache-2.0
// The environment `studio` of renderers/light/environment.py, so that a material looks here as it does there.

import * as THREE from 'three/webgpu';

const ROWS = 64;
const WALLS = [[-1, [0.16, 0.16, 0.17]], [0, [0.28, 0.28, 0.30]], [1, [0.55, 0.55, 0.57]]];
const LAMPS = [ // towards, half the angle in degrees, colour
  [[-0.6, 0.7, 0.6], 24, [6.5, 6.2, 5.8]],
  [[0.9, 0.2, 0.6], 18, [1.6, 1.8, 2.2]],
  [[0.2, 0.5, -1.0], 14, [4.0, 4.2, 4.6]],
];

const clamp = (value) => Math.min(Math.max(value, 0), 1);

// Linear radiance [r, g, b] from a unit direction, +Y up.
export function radiance([x, y, z]) {
  const found = wall(y);
  for (const [towards, half, colour] of LAMPS) {
    const cosine = (x * towards[0] + y * towards[1] + z * towards[2]) / Math.hypot(...towards);
    const degrees = Math.acos(Math.min(Math.max(cosine, -1), 1)) * 180 / Math.PI;
    const fade = clamp((1.3 * half - degrees) / (0.3 * half));
    for (let c = 0; c < 3; c++) found[c] += fade * fade * (3 - 2 * fade) * colour[c];
  }
  return found;
}

function wall(y) {
  const above = WALLS[1][0] > y ? 1 : 2;
  const [[low, under], [high, over]] = [WALLS[above - 1], WALLS[above]];
  const share = clamp((y - low) / (high - low));
  return under.map((value, c) => value * (1 - share) + over[c] * share);
}

// The light as a texture; three.js reads direction d at u = atan2(d_z, d_x) / 2 pi + 1/2, v = asin(d_y) / pi + 1/2.
export function studio() {
  const columns = 2 * ROWS;
  const data = new Uint16Array(4 * ROWS * columns);
  for (let row = 0, at = 0; row < ROWS; row++) {
    const tilt = Math.PI * ((row + 0.5) / ROWS - 0.5);
    for (let column = 0; column < columns; column++, at += 4) {
      const turn = 2 * Math.PI * ((column + 0.5) / columns - 0.5);
      const flat = Math.cos(tilt);
      const colour = radiance([flat * Math.cos(turn), Math.sin(tilt), flat * Math.sin(turn)]);
      for (let c = 0; c < 3; c++) data[at + c] = THREE.DataUtils.toHalfFloat(colour[c]);
      data[at + 3] = THREE.DataUtils.toHalfFloat(1);
    }
  }
  const texture = new THREE.DataTexture(data, columns, ROWS, THREE.RGBAFormat, THREE.HalfFloatType);
  texture.mapping = THREE.EquirectangularReflectionMapping;
  texture.colorSpace = THREE.LinearSRGBColorSpace;
  texture.minFilter = texture.magFilter = THREE.LinearFilter;
  texture.needsUpdate = true;
  return texture;
}
