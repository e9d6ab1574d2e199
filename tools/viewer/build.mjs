// SPDX-License-Identifier: Apache-2.0
// Makes dreamlab/studio/static/viewer.js, or the file named as the argument. three and esbuild come from the
// node_modules that DREAMLAB_THREE names, or from those beside this file (npm install). Equal versions give equal bytes.

import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
const packages = path.resolve(process.env.DREAMLAB_THREE ?? path.join(here, 'node_modules'));
const esbuild = createRequire(import.meta.url)(path.join(packages, 'esbuild'));
const wanted = createRequire(import.meta.url)('./package.json').devDependencies;
const found = createRequire(import.meta.url)(path.join(packages, 'three', 'package.json')).version;
if (found !== wanted.three || esbuild.version !== wanted.esbuild) {
  console.error(`viewer: needs three ${wanted.three} and esbuild ${wanted.esbuild}, found ${found} and ${esbuild.version}`);
  process.exit(2);
}

const notice = `// SPDX-License-Identifier: Apache-2.0 AND MIT
// Built from tools/viewer by "npm run build": not to be edited. Holds three.js ${found}, Copyright 2010-2026 three.js
// authors, MIT License (THIRD_PARTY_NOTICES.md).`;

await esbuild.build({
  absWorkingDir: here,
  entryPoints: ['src/viewer.js'],
  outfile: path.resolve(process.argv[2] ?? path.join(here, '../../dreamlab/studio/static/viewer.js')),
  bundle: true,
  format: 'esm',
  target: 'es2022',
  minify: true,
  legalComments: 'none',
  banner: { js: notice },
  nodePaths: [packages],
  logLevel: 'warning',
});
