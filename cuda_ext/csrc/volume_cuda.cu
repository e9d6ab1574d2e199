// SPDX-License-Identifier: Apache-2.0
// volume_cuda.cu - one thread per ray; gradients of cells are added atomically.
#include "volume.h"

using namespace dl;

extern "C" __global__ void dl_volume(VolumeParams p, float* out) {
  const int64_t ray = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (ray < p.views * p.rays) volume_ray(p, ray, p.channels, out + ray * (p.channels + 1));
}

extern "C" __global__ void dl_volume_backward(VolumeParams p, const float* grad, float* grad_grid) {
  const int64_t ray = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (ray >= p.views * p.rays) return;
  float* target = grad_grid + grid_start(p, ray);
  const float* given = grad + ray * (p.channels + 1);
  volume_ray_backward(p, ray, p.channels, given, [=](int64_t cell, float weight, float ends, float slope) {
    atomicAdd(target + cell, weight * slope);
    for (int64_t c = 1; c < p.channels; ++c) atomicAdd(target + cell + c, weight * ends * given[c - 1]);
  });
}
