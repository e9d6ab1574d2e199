// SPDX-License-Identifier: Apache-2.0
// interpolate_cpu.cpp - one parallel region over rows of pixels; common channel counts are compiled out.
#include "channels.h"
#include "interpolate.h"
#include "raster_slabs.h"

using namespace dl;

// value [B, H, W, C]; slope [B, H, W, C, 2] when p.uv_dxy.
DL_API int dl_interpolate(const dl::InterpolateParams* params, float* value, float* slope, int threads) {
  const InterpolateParams p = *params;
  with_channels<1, 2, 3, 4>(p.channels, [&](auto known) {
    const int64_t channels = known.of(p);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 16)
    for (int64_t row = 0; row < p.views * p.height; ++row)
      for (int64_t pixel = row * p.width; pixel < (row + 1) * p.width; ++pixel)
        interpolate_pixel(p, pixel, channels, value + pixel * channels, slope + 2 * pixel * channels);
  });
  return 0;
}

// grad_attributes [A, V, C] and grad_uv [B, H, W, 2]; grad_slope may be null. Returns 0, or 1 when memory ran out.
DL_API int dl_interpolate_backward(const dl::InterpolateParams* params, const float* grad_value, const float* grad_slope,
                                   float* grad_attributes, float* grad_uv, int threads) {
  const InterpolateParams p = *params;
  const int64_t size = p.vertices * p.channels, rows = p.views * p.height / p.sets;
  bool done = true;
  with_channels<1, 2, 3, 4>(p.channels, [&](auto known) {
    const int64_t channels = known.of(p);
    done = sum_slabs(grad_attributes, p.sets, rows, size, threads, [&](int64_t set, int64_t first, int64_t last, float* target) {
      float* to = target - set * size;
      const auto add = [&](int64_t at, float g) { to[at] += g; };
      for (int64_t pixel = (set * rows + first) * p.width; pixel < (set * rows + last) * p.width; ++pixel)
        interpolate_pixel_backward(p, pixel, channels, grad_value + pixel * channels,
                                   grad_slope ? grad_slope + 2 * pixel * channels : nullptr, grad_uv + 2 * pixel, add);
    });
  });
  return done ? 0 : 1;
}
