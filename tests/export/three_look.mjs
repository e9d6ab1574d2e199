// SPDX-License-Identifier: Apache-2.0
// Draws GLB files with three.js: the server of the page says which at /jobs, each with a file in base64, a camera, a
// size and a moment of the clip, and is told at /done: pictures over white as data URLs, objects, clips.

import * as THREE from 'three/webgpu';
import { GLTFLoader } from 'three/addons/loaders/GLTFLoader.js';
import { GLTFGaussianSplatLoaderExtension } from 'three/addons/loaders/GLTFGaussianSplatLoaderExtension.js';

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
}

// Colours as they are, whatever the light.
function unlit(object) {
  if (!object.isMesh || object.isGaussianSplat || !object.material?.isMeshStandardMaterial) return;
  const { map, vertexColors } = object.material;
  object.material = new THREE.MeshBasicMaterial({ map, vertexColors });
}

async function draw(renderer, job) {
  const loader = new GLTFLoader();
  loader.register((parser) => new GLTFGaussianSplatLoaderExtension(parser));
  const gltf = await loader.parseAsync(bytes(job.glb), '');
  const scene = new THREE.Scene();
  scene.background = new THREE.Color(1, 1, 1);
  scene.add(gltf.scene);
  gltf.scene.traverse(unlit);
  if (job.seconds !== null) {
    const mixer = new THREE.AnimationMixer(gltf.scene);
    mixer.clipAction(gltf.animations[0]).play();
    mixer.setTime(job.seconds);
  }
  const camera = new THREE.PerspectiveCamera(job.fovy, 1, 0.01, 100);
  camera.matrixAutoUpdate = false;
  camera.matrix.fromArray(job.pose);
  camera.matrixWorldNeedsUpdate = true;
  const kinds = [];
  gltf.scene.traverse((object) => kinds.push(object.isGaussianSplat ? 'GaussianSplat' : object.type));
  // Colours of Gaussians are as they are shown already, which three.js 0.187 does not ask the file.
  const splats = kinds.includes('GaussianSplat');
  renderer.outputColorSpace = splats ? THREE.LinearSRGBColorSpace : THREE.SRGBColorSpace;
  renderer.setSize(job.size, job.size, false);
  for (let i = 0; i < 8; i++) { // splats are sorted beside the drawing
    await renderer.renderAsync(scene, camera);
    await new Promise((done) => setTimeout(done, 30));
  }
  await renderer.renderAsync(scene, camera);
  return { picture: renderer.domElement.toDataURL('image/png'), kinds, clips: gltf.animations.map((clip) => clip.name) };
}

async function main() {
  const jobs = await (await fetch('/jobs')).json();
  const canvas = document.createElement('canvas');
  const renderer = new THREE.WebGPURenderer({ canvas, forceWebGL: true, antialias: true, preserveDrawingBuffer: true });
  await renderer.init();
  const found = [];
  for (const job of jobs) found.push(await draw(renderer, job));
  return { found };
}

main().catch((error) => ({ error: String(error?.stack ?? error) }))
  .then((said) => fetch('/done', { method: 'POST', body: JSON.stringify(said) }));
