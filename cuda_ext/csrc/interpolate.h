// SPDX-License-Identifier: Apache-2.0
// interpolate.h - attributes of one pixel from the three corners of its triangle; compiled for CPU and CUDA.
#pragma once
#include "common.h"

namespace dl {

struct InterpolateParams {
  const float* attributes;    // [A, V, C], A = B or 1 (shared by all views)
  const int32_t* triangles;   // [T, 3] rows of attributes
  const int32_t* triangle;    // [B, H, W] 1 + triangle, 0 for none
  const float* uv;            // [B, H, W, 2] weights of corners 0 and 1
  const float* uv_dxy;        // [B, H, W, 4] their change per pixel; null when no derivatives are wanted
  int64_t views, sets, vertices, count, channels, height, width;
};

// First elements of the pixel's three attribute rows; false where there is no (valid) triangle.
DL_HD bool corner_offsets(const InterpolateParams& p, int64_t pixel, int64_t* offset) {
  const int64_t id = p.triangle[pixel];
  if (id <= 0 || id > p.count) return false;
  const int64_t set = p.sets > 1 ? pixel / (p.height * p.width) : 0;
  for (int i = 0; i < 3; ++i) {
    const int64_t v = p.triangles[3 * (id - 1) + i];
    if (v < 0 || v >= p.vertices) return false;
    offset[i] = (set * p.vertices + v) * p.channels;
  }
  return true;
}

// value [C] and slope [C, 2] (when p.uv_dxy) of one pixel.
DL_HD void interpolate_pixel(const InterpolateParams& p, int64_t pixel, int64_t channels, float* value, float* slope) {
  int64_t at[3];
  if (!corner_offsets(p, pixel, at)) {
    for (int64_t c = 0; c < channels; ++c) {
      value[c] = 0.f;
      if (p.uv_dxy) slope[2 * c] = slope[2 * c + 1] = 0.f;
    }
    return;
  }
  const float u = p.uv[2 * pixel], v = p.uv[2 * pixel + 1];
  const float* d = p.uv_dxy ? p.uv_dxy + 4 * pixel : nullptr;
  for (int64_t c = 0; c < channels; ++c) {
    const float a2 = p.attributes[at[2] + c], a0 = p.attributes[at[0] + c] - a2, a1 = p.attributes[at[1] + c] - a2;
    value[c] = u * a0 + v * a1 + a2;
    if (d) {
      slope[2 * c] = d[0] * a0 + d[2] * a1;
      slope[2 * c + 1] = d[1] * a0 + d[3] * a1;
    }
  }
}

// Calls add(offset, value) for the gradients of the attributes and writes that of uv [2].
template <class Add>
DL_HD void interpolate_pixel_backward(const InterpolateParams& p, int64_t pixel, int64_t channels,
                                      const float* grad_value, const float* grad_slope, float* grad_uv, const Add& add) {
  int64_t at[3];
  grad_uv[0] = grad_uv[1] = 0.f;
  if (!corner_offsets(p, pixel, at)) return;
  const float u = p.uv[2 * pixel], v = p.uv[2 * pixel + 1];
  const float* d = p.uv_dxy ? p.uv_dxy + 4 * pixel : nullptr;
  float gu = 0.f, gv = 0.f;
  for (int64_t c = 0; c < channels; ++c) {
    const float a2 = p.attributes[at[2] + c], g = grad_value[c];
    gu += g * (p.attributes[at[0] + c] - a2);
    gv += g * (p.attributes[at[1] + c] - a2);
    float g0 = g * u, g1 = g * v, g2 = g - g0 - g1;
    if (d && grad_slope) {
      const float s0 = grad_slope[2 * c] * d[0] + grad_slope[2 * c + 1] * d[1];
      const float s1 = grad_slope[2 * c] * d[2] + grad_slope[2 * c + 1] * d[3];
      g0 += s0, g1 += s1, g2 -= s0 + s1;
    }
    add(at[0] + c, g0), add(at[1] + c, g1), add(at[2] + c, g2);
  }
  grad_uv[0] = gu, grad_uv[1] = gv;
}

}  // namespace dl
