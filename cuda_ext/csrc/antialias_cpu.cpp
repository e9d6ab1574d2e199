// SPDX-License-Identifier: Apache-2.0
// antialias_cpu.cpp - rows of pixels in parallel. Each row gathers what its pixels receive, so colours do not depend on
// the thread count; gradients of the corners are summed in slabs.
#include <memory>
#include <new>

#include "antialias.h"
#include "raster_slabs.h"

namespace {

using namespace dl;

// Calls use(column, axis, code) for the codes of one row of pairs.
template <class Use>
void each_code(const int32_t* pairs, int64_t width, const Use& use) {
  for (int64_t column = 0; column < width; ++column, pairs += 2) {
    int64_t both;
    memcpy(&both, pairs, sizeof both);
    if (both == 0) continue;
    for (int axis = 0; axis < 2; ++axis)
      if (pairs[axis]) use(column, axis, pairs[axis]);
  }
}

// Calls use(column, axis, code, row of the pair) for the pairs that touch the pixels of `row`.
template <class Use>
void each_code_at(const AntialiasParams& p, const int32_t* pairs, int64_t view, int64_t row, const Use& use) {
  const int32_t* here = pairs + 2 * (view * p.height + row) * p.width;
  if (row > 0)
    each_code(here - 2 * p.width, p.width, [&](int64_t column, int axis, int32_t code) {
      if (axis == 1) use(column, axis, code, row - 1);
    });
  each_code(here, p.width, [&](int64_t column, int axis, int32_t code) { use(column, axis, code, row); });
}

}  // namespace

// pairs [B, H, W, 2] from triangle and depth [B, H, W]. Returns 0, or 1 when memory ran out.
DL_API int dl_antialias_silhouettes(
    const dl::AntialiasParams* params, const int32_t* triangle, const float* depth, int32_t* pairs, int threads) {
  const AntialiasParams p = *params;
  std::unique_ptr<uint8_t[]> sides(new (std::nothrow) uint8_t[p.views * p.count + 1]);
  std::unique_ptr<uint8_t[]> states(new (std::nothrow) uint8_t[p.views * p.count + 1]);
  if (!sides || !states) return 1;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t k = 0; k < p.views * p.count; ++k) sides[k] = facing(p, k / p.count, k % p.count);
#pragma omp for schedule(static)
    for (int64_t k = 0; k < p.views * p.count; ++k) {
      const int64_t view = k / p.count, t = k % p.count;
      uint8_t state = sides[k];
      for (int i = 0; i < 3; ++i) state |= uint8_t(is_silhouette(p, sides.get() + view * p.count, 3 * t + i) << i);
      states[k] = state;
    }
#pragma omp for schedule(dynamic, 16)
    for (int64_t line = 0; line < p.views * p.height; ++line) {
      const int64_t view = line / p.height, row = line % p.height;
      const int32_t *here = triangle + line * p.width, *below = here + p.width;
      int32_t* out = pairs + 2 * line * p.width;
      const uint8_t* state = states.get() + view * p.count;
      for (int64_t column = 0; column < p.width; ++column) {
        const bool right = column + 1 < p.width && here[column] != here[column + 1];
        const bool down = row + 1 < p.height && here[column] != below[column];
        out[2 * column] = right ? find_silhouette(p, state, triangle, depth, view, row, column, 0) : 0;
        out[2 * column + 1] = down ? find_silhouette(p, state, triangle, depth, view, row, column, 1) : 0;
      }
    }
  }
  return 0;
}

// out [B, H, W, C] from color [B, H, W, C].
DL_API int dl_antialias_blend(
    const dl::AntialiasParams* params, const float* color, const int32_t* pairs, float* out, int threads) {
  const AntialiasParams p = *params;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 16)
  for (int64_t line = 0; line < p.views * p.height; ++line) {
    const int64_t view = line / p.height, row = line % p.height, n = p.channels;
    const float* colors = color + view * p.height * p.width * n;
    memcpy(out + line * p.width * n, color + line * p.width * n, size_t(p.width * n) * sizeof(float));
    each_code_at(p, pairs, view, row, [&](int64_t column, int axis, int32_t code, int64_t pair_row) {
      const Share s = share_of(p, code, view, pair_row, column, axis);
      const int64_t first = pair_row * p.width + column, second = first + (axis == 0 ? 1 : p.width);
      const int64_t to = s.to_second ? second : first;
      if (to / p.width != row) return;
      const float *front = colors + (s.back ? second : first) * n, *behind = colors + (s.back ? first : second) * n;
      float* target = out + (view * p.height * p.width + to) * n;
      for (int64_t c = 0; c < n; ++c) target[c] += s.amount * (front[c] - behind[c]);
    });
  }
  return 0;
}

// grad_color [B, H, W, C] and grad_clip [B, V, 4] from grad [B, H, W, C]. Returns 0, or 1 when memory ran out.
DL_API int dl_antialias_blend_backward(const dl::AntialiasParams* params, const float* color, const int32_t* pairs,
                                       const float* grad, float* grad_color, float* grad_clip, int threads) {
  const AntialiasParams p = *params;
  const int64_t n = p.channels, size = p.vertices * 4;
  const auto body = [&](int64_t view, int64_t first_row, int64_t last_row, float* target) {
    const int64_t base = view * p.height * p.width;
    float* to_clip = target - view * size;
    for (int64_t row = first_row; row < last_row; ++row) {
      memcpy(grad_color + (base + row * p.width) * n, grad + (base + row * p.width) * n, size_t(p.width * n) * sizeof(float));
      each_code_at(p, pairs, view, row, [&](int64_t column, int axis, int32_t code, int64_t pair_row) {
        const Share s = share_of(p, code, view, pair_row, column, axis);
        const int64_t first = base + pair_row * p.width + column, second = first + (axis == 0 ? 1 : p.width);
        const int64_t front = s.back ? second : first, behind = s.back ? first : second;
        const float* g = grad + (s.to_second ? second : first) * n;
        float along = 0.f;
        for (int64_t c = 0; c < n; ++c) along += g[c] * (color[front * n + c] - color[behind * n + c]);
        for (int side = 0; side < 2; ++side) {
          const int64_t pixel = side ? second : first;
          if ((pixel - base) / p.width != row) continue;
          const float amount = pixel == front ? s.amount : -s.amount;
          for (int64_t c = 0; c < n; ++c) grad_color[pixel * n + c] += amount * g[c];
        }
        if (pair_row != row) return;  // each pair moves its corners once
        float start[4], end[4];
        share_backward(s, along, start, end);
        for (int j = 0; j < 4; ++j) to_clip[4 * s.start + j] += start[j], to_clip[4 * s.end + j] += end[j];
      });
    }
  };
  return sum_slabs(grad_clip, p.views, p.height, size, threads, body) ? 0 : 1;
}
