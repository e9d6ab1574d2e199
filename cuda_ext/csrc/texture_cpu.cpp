// SPDX-License-Identifier: Apache-2.0
// texture_cpu.cpp - fetches over rows of pixels, pyramids over rows of texels, each in one parallel region.
#include "channels.h"
#include "raster_slabs.h"
#include "texture.h"

namespace {

using namespace dl;

int32_t level_side(int32_t size, int level) { return size >> level > 1 ? size >> level : 1; }

}  // namespace

// out [B, H, W, C]
DL_API int dl_texture_fetch(const dl::TextureParams* params, float* out, int threads) {
  const TextureParams p = *params;
  with_channels<1, 3, 4>(p.channels, [&](auto known) {
    const int64_t channels = known.of(p);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 16)
    for (int64_t row = 0; row < p.views * p.rows; ++row)
      for (int64_t pixel = row * p.columns; pixel < (row + 1) * p.columns; ++pixel)
        fetch_pixel(p, lookup(p, pixel), channels, out + pixel * channels);
  });
  return 0;
}

// grad_pyramid [A, P, C], grad_uv [B, H, W, 2], grad_level [B, H, W] or null. Returns 0, or 1 when memory ran out.
DL_API int dl_texture_fetch_backward(
    const dl::TextureParams* params, const float* grad, float* grad_pyramid, float* grad_uv, float* grad_level, int threads) {
  const TextureParams p = *params;
  const int64_t size = p.texels * p.channels, rows = p.views * p.rows / p.sets;
  bool done = true;
  with_channels<1, 3, 4>(p.channels, [&](auto known) {
    const int64_t channels = known.of(p);
    done = sum_slabs(grad_pyramid, p.sets, rows, size, threads, [&](int64_t set, int64_t first, int64_t last, float* target) {
      float* to = target - set * size;
      const auto add = [&](int64_t at, float g) { to[at] += g; };
      for (int64_t pixel = (set * rows + first) * p.columns; pixel < (set * rows + last) * p.columns; ++pixel)
        fetch_pixel_backward(p, lookup(p, pixel), channels, grad + pixel * channels, grad_uv + 2 * pixel,
                             grad_level ? grad_level + pixel : nullptr, add);
    });
  });
  return done ? 0 : 1;
}

// level [B, H, W] from slope [B, H, W, 4]. Uses only the sizes of p.
DL_API int dl_texture_level(const dl::TextureParams* params, const float* slope, float* level, int threads) {
  const TextureParams p = *params;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t k = 0; k < p.views * p.rows * p.columns; ++k)
    level[k] = level_of(slope + 4 * k, float(p.width), float(p.height));
  return 0;
}

DL_API int dl_texture_level_backward(
    const dl::TextureParams* params, const float* slope, const float* grad, float* out, int threads) {
  const TextureParams p = *params;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t k = 0; k < p.views * p.rows * p.columns; ++k)
    level_backward(slope + 4 * k, float(p.width), float(p.height), grad[k], out + 4 * k);
  return 0;
}

// pyramid [A, P, C] with level 0 filled in: computes the others. Uses only the sizes of p.
DL_API int dl_texture_pyramid(const dl::TextureParams* params, float* pyramid, int threads) {
  const TextureParams p = *params;
  with_channels<1, 3, 4>(p.channels, [&](auto known) {
    const int64_t n = known.of(p);
#pragma omp parallel num_threads(threads)
    for (int l = 1; l < p.levels; ++l) {
      const int32_t h = level_side(p.height, l), w = level_side(p.width, l);
      const int32_t fine_h = level_side(p.height, l - 1), fine_w = level_side(p.width, l - 1);
#pragma omp for schedule(static)
      for (int64_t line = 0; line < p.sets * h; ++line) {
        float* set = pyramid + line / h * p.texels * n;
        const float* fine = set + p.start[l - 1] * n;
        const int32_t row = int32_t(line % h);
        float* to = set + (p.start[l] + int64_t(row) * w) * n;
        if (fine_h == 2 * h && fine_w == 2 * w) {
          const float *upper = fine + int64_t(2 * row) * fine_w * n, *lower = upper + fine_w * n;
          for (int32_t column = 0; column < w; ++column, upper += 2 * n, lower += 2 * n)
            for (int64_t c = 0; c < n; ++c) *to++ = 0.25f * ((upper[c] + upper[n + c]) + (lower[c] + lower[n + c]));
        } else {
          for (int32_t column = 0; column < w; ++column)
            for (int64_t c = 0; c < n; ++c) *to++ = average(fine, fine_h, fine_w, n, row, column, c);
        }
      }
    }
  });
  return 0;
}

// out [A, h, w, C]: the gradient of the image from grad [A, P, C]; coarse [A, P - h w, C] holds the levels from 1 on and is
// folded in place. Uses only the sizes of p.
DL_API int dl_texture_pyramid_backward(const dl::TextureParams* params, const float* grad, float* coarse, float* out, int threads) {
  const TextureParams p = *params;
  with_channels<1, 3, 4>(p.channels, [&](auto known) {
    const int64_t n = known.of(p), base = p.start[1];
#pragma omp parallel num_threads(threads)
    for (int l = p.levels - 1; l >= 1; --l) {
      const int32_t h = level_side(p.height, l - 1), w = level_side(p.width, l - 1);
#pragma omp for schedule(static)
      for (int64_t line = 0; line < p.sets * h; ++line) {
        const int64_t set = line / h, row = line % h;
        float* levels = coarse + set * (p.texels - base) * n;
        const float* from = levels + (p.start[l] - base) * n;
        float* to = l == 1 ? out + line * w * n : levels + (p.start[l - 1] - base + row * w) * n;
        const float* own = l == 1 ? grad + (set * p.texels + row * w) * n : to;
        if (h % 2 == 0 && w % 2 == 0) {
          from += row / 2 * (w / 2) * n;
          for (int32_t column = 0; column < w; ++column)
            for (int64_t c = 0; c < n; ++c) *to++ = *own++ + 0.25f * from[column / 2 * n + c];
        } else {
          for (int32_t column = 0; column < w; ++column)
            for (int64_t c = 0; c < n; ++c) *to++ = *own++ + spread(from, h, w, n, int32_t(row), column, c);
        }
      }
    }
  });
  return 0;
}
