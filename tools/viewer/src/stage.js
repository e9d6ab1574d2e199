// SPDX-License-Identifier: Apache-2.0
// The one renderer of a page. Every view hands it a scene and gets a picture back on a canvas of its own, so that a page
// may have more views than a browser gives contexts, shaders are made once, and a lost context leaves the last picture.

import * as THREE from 'three/webgpu';
import { studio } from './light.js';

const SETTLE = 2; // what Gaussians sort in one picture is drawn in the next

let opening = null;

// The stage, made when first asked for and again after the context was lost.
export function stage() {
  opening ??= Stage.open().catch((error) => {
    opening = null;
    throw error;
  });
  return opening;
}

class Stage extends EventTarget {
  static async open() {
    if (!document.createElement('canvas').getContext('webgl2')) throw new Error('this browser has no WebGL 2');
    const made = new Stage();
    await made.renderer.init();
    return made;
  }

  constructor() {
    super();
    this.canvas = document.createElement('canvas');
    this.renderer = new THREE.WebGPURenderer({
      canvas: this.canvas, forceWebGL: true, antialias: true, alpha: true, powerPreference: 'high-performance',
    });
    this.renderer.setClearColor(0x000000, 0);
    this.renderer.setPixelRatio(1);
    this.light = studio();
    this.lost = false;
    this.renderer.onDeviceLost = () => {
      this.lost = true;
      opening = null;
      this.dispatchEvent(new Event('lost'));
    };
  }

  // A picture of the scene onto a 2D context's canvas, at that canvas's size.
  draw(scene, camera, splats, context) {
    const { width, height } = context.canvas;
    if (this.lost || !width || !height) return;
    const { renderer } = this;
    // Colours of Gaussians are as they are shown already, and are mixed as such; three.js does not ask the file.
    renderer.outputColorSpace = splats ? THREE.LinearSRGBColorSpace : THREE.SRGBColorSpace;
    renderer.toneMapping = splats ? THREE.NoToneMapping : THREE.NeutralToneMapping;
    if (this.canvas.width !== width || this.canvas.height !== height) renderer.setSize(width, height, false);
    for (let i = 0; i < (splats ? SETTLE : 1); i++) renderer.render(scene, camera);
    context.clearRect(0, 0, width, height);
    context.drawImage(this.canvas, 0, 0);
  }

  // Makes the shaders of a scene ahead of its first picture, without holding the page up.
  async prepare(scene, camera) {
    if (!this.lost) await this.renderer.compileAsync(scene, camera);
  }
}
