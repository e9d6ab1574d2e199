// SPDX-License-Identifier: Apache-2.0
// volume_cpu.cpp - rays over threads forward, grids over threads backward (a grid's gradient is summed by one thread in
// the order of its rays, so any thread count gives the same bits); the prior's channel count is compiled out.
#include "channels.h"
#include "volume.h"

#include <cstring>

using namespace dl;

// out [B, N, C + 1].
DL_API int dl_volume(const dl::VolumeParams* params, float* out, int threads) {
  const VolumeParams p = *params;
  with_channels<20>(p.channels, [&](auto known) {
    const int64_t channels = known.of(p);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
    for (int64_t ray = 0; ray < p.views * p.rays; ++ray) volume_ray(p, ray, channels, out + ray * (channels + 1));
  });
  return 0;
}

// grad [B, N, C + 1] to grad_grid [G, D, H, W, C].
DL_API int dl_volume_backward(const dl::VolumeParams* params, const float* grad, float* grad_grid, int threads) {
  const VolumeParams p = *params;
  with_channels<20>(p.channels, [&](auto known) {
    const int64_t channels = known.of(p), size = p.depth * p.height * p.width * channels;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t set = 0; set < p.grids; ++set) {
      float* target = grad_grid + set * size;
      memset(target, 0, size * sizeof(float));
      for (int64_t view = 0; view < p.views; ++view) {
        if (p.row[view] != set) continue;
        for (int64_t ray = view * p.rays; ray < (view + 1) * p.rays; ++ray) {
          const float* given = grad + ray * (channels + 1);
          volume_ray_backward(p, ray, channels, given, [&](int64_t cell, float weight, float ends, float slope) {
            float* to = target + cell;
            to[0] += weight * slope;
            const float share = weight * ends;
            for (int64_t c = 1; c < channels; ++c) to[c] += share * given[c - 1];
          });
        }
      }
    }
  });
  return 0;
}
