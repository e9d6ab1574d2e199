// SPDX-License-Identifier: Apache-2.0
// adam_cuda.cu - one thread per number; step and skip are read on the device, so the launch fits in a CUDA graph.
#include "adam.h"

using namespace dl;

extern "C" __global__ void __launch_bounds__(256)
    dl_adam(float* __restrict__ x, const float* __restrict__ g, float* __restrict__ m, float* __restrict__ v, const AdamParams p) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.rows * p.columns || (p.skip && *p.skip)) return;
  if (p.visible && !p.visible[i / p.columns]) return;
  const AdamScale s = adam_scale(p);
  float vx = x[i], vm = m[i], vv = v[i];
  adam_update(vx, g[i], vm, vv, p, s);
  x[i] = vx, m[i] = vm, v[i] = vv;
}
