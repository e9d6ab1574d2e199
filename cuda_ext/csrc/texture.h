// SPDX-License-Identifier: Apache-2.0
// texture.h - bilinear taps, trilinear fetch and the area-average pyramid; compiled for CPU and CUDA.
//
// A pyramid is flat: level 0 row by row, then level 1, ... Level l is max(1, size >> l) texels a side. Texel (i, j) has its
// centre at v = (i + 0.5) / height, u = (j + 0.5) / width. The specification is cuda_ext/reference/texture.py.
#pragma once
#include "common.h"

namespace dl {

constexpr int kMaxLevels = 32;

struct TextureParams {
  const float* pyramid;   // [A, P, C], A = B or 1 (shared by all views)
  const float* uv;        // [B, H, W, 2]
  const float* level;     // [B, H, W]; null reads level 0
  int64_t views, sets, texels, channels;
  int64_t rows, columns;  // H, W of the picture
  int32_t height, width;  // of level 0
  int32_t levels, wrap;   // wrap: 1 repeats, 0 clamps
  int64_t start[kMaxLevels];  // first texel of each level
};

struct Axis {
  int32_t first, second;  // texels around the coordinate
  float fraction;         // weight of the second
  float scale;            // change of the position, in texels, with the coordinate; 0 where it is clamped
};

DL_HD Axis axis_taps(float u, int32_t size, bool wrap) {
  const float n = float(size);
  if (wrap) {
    const float x = (u - floorf(u)) * n - 0.5f, low = floorf(x);
    int32_t first = int32_t(low);
    const int32_t second = first + 1 >= size ? first + 1 - size : first + 1;
    if (first < 0) first += size;
    if (first >= size) first -= size;  // u - floor(u) may round up to 1
    return {first, second, x - low, n};
  }
  const float raw = u * n - 0.5f, x = raw < 0.f ? 0.f : raw > n - 1.f ? n - 1.f : raw, low = floorf(x);
  const int32_t first = int32_t(low);
  return {first, first + 1 < size ? first + 1 : size - 1, x - low, raw < 0.f || raw > n - 1.f ? 0.f : n};
}

struct Taps {
  int64_t at[4];      // elements of the four texels: upper left, upper right, lower left, lower right
  float fx, fy;
  float scale_x, scale_y;
};

DL_HD Taps taps(const TextureParams& p, int64_t set, float u, float v, int level) {
  const int32_t h = p.height >> level > 1 ? p.height >> level : 1, w = p.width >> level > 1 ? p.width >> level : 1;
  const Axis x = axis_taps(u, w, p.wrap), y = axis_taps(v, h, p.wrap);
  const int64_t base = set * p.texels + p.start[level], upper = base + int64_t(y.first) * w, lower = base + int64_t(y.second) * w;
  return {{(upper + x.first) * p.channels, (upper + x.second) * p.channels, (lower + x.first) * p.channels,
           (lower + x.second) * p.channels}, x.fraction, y.fraction, x.scale, y.scale};
}

// What a pixel reads.
struct Lookup {
  int count;         // 1: bilinear, 2: between two levels
  Taps taps[2];
  float blend;       // weight of the second level
  bool level_free;   // the level was neither clamped nor broken: it has a gradient
  bool uv_free;      // uv was finite
};

DL_HD Lookup lookup(const TextureParams& p, int64_t pixel) {
  Lookup l;
  const int64_t set = p.sets > 1 ? pixel / (p.rows * p.columns) : 0;
  float u = p.uv[2 * pixel], v = p.uv[2 * pixel + 1];
  l.uv_free = finite_(u) && finite_(v);
  if (!l.uv_free) u = v = 0.f;
  l.count = p.level && p.levels > 1 ? 2 : 1;
  l.blend = 0.f, l.level_free = false;
  int lower = 0;
  if (l.count == 2) {
    float level = p.level[pixel];
    const float last = float(p.levels - 1);
    l.level_free = finite_(level) && level >= 0.f && level <= last;
    if (!finite_(level)) level = 0.f;
    level = level < 0.f ? 0.f : level > last ? last : level;
    lower = int(level);
    if (lower > p.levels - 2) lower = p.levels - 2;
    l.blend = level - float(lower);
  }
  for (int i = 0; i < l.count; ++i) l.taps[i] = taps(p, set, u, v, lower + i);
  return l;
}

DL_HD float bilinear(const float* t, const Taps& k, int64_t c) {
  const float a = t[k.at[0] + c], b = t[k.at[1] + c], d = t[k.at[2] + c], e = t[k.at[3] + c];
  const float upper = a + k.fx * (b - a), lower = d + k.fx * (e - d);
  return upper + k.fy * (lower - upper);
}

DL_HD void fetch_pixel(const TextureParams& p, const Lookup& l, int64_t channels, float* out) {
  for (int64_t c = 0; c < channels; ++c) {
    const float near = bilinear(p.pyramid, l.taps[0], c);
    out[c] = l.count == 2 ? near + l.blend * (bilinear(p.pyramid, l.taps[1], c) - near) : near;
  }
}

// Calls add(element of the pyramid, value); writes grad_uv [2] and, when not null, grad_level.
template <class Add>
DL_HD void fetch_pixel_backward(const TextureParams& p, const Lookup& l, int64_t channels, const float* grad,
                                float* grad_uv, float* grad_level, const Add& add) {
  float gu = 0.f, gv = 0.f, gl = 0.f;
  for (int i = 0; i < l.count; ++i) {
    const Taps& k = l.taps[i];
    const float share = l.count == 1 ? 1.f : i == 0 ? 1.f - l.blend : l.blend;
    float gx = 0.f, gy = 0.f, sum = 0.f;
    for (int64_t c = 0; c < channels; ++c) {
      const float a = p.pyramid[k.at[0] + c], b = p.pyramid[k.at[1] + c];
      const float d = p.pyramid[k.at[2] + c], e = p.pyramid[k.at[3] + c];
      const float g = grad[c], upper = a + k.fx * (b - a), lower = d + k.fx * (e - d);
      gx += g * ((1.f - k.fy) * (b - a) + k.fy * (e - d));
      gy += g * (lower - upper);
      sum += g * (upper + k.fy * (lower - upper));
      const float top = g * share * (1.f - k.fy), bottom = g * share * k.fy;
      add(k.at[0] + c, top * (1.f - k.fx)), add(k.at[1] + c, top * k.fx);
      add(k.at[2] + c, bottom * (1.f - k.fx)), add(k.at[3] + c, bottom * k.fx);
    }
    gu += share * gx * k.scale_x, gv += share * gy * k.scale_y;
    gl += i == 0 ? -sum : sum;
  }
  grad_uv[0] = l.uv_free ? gu : 0.f, grad_uv[1] = l.uv_free ? gv : 0.f;
  if (grad_level) *grad_level = l.level_free ? gl : 0.f;
}

// Squared lengths, in texels, of a pixel's footprint along x and along y; slope is du/dx, du/dy, dv/dx, dv/dy.
struct Footprint {
  float x, y;
};

DL_HD Footprint footprint(const float* slope, float width, float height) {
  const float ux = slope[0] * width, uy = slope[1] * width, vx = slope[2] * height, vy = slope[3] * height;
  return {ux * ux + vx * vx, uy * uy + vy * vy};
}

constexpr float kSmallFootprint = 1e-12f;  // squared; keeps the logarithm finite where nothing is seen

DL_HD float level_of(const float* slope, float width, float height) {
  const Footprint f = footprint(slope, width, height);
  return 0.5f * log2f(max_(max_(f.x, f.y), kSmallFootprint));
}

// Gradient [4] to the slopes; a tie of the two sides is shared.
DL_HD void level_backward(const float* slope, float width, float height, float grad, float* out) {
  const Footprint f = footprint(slope, width, height);
  const float longest = max_(f.x, f.y), scale = longest < kSmallFootprint ? 0.f : grad * 1.44269504f / longest;
  const float x = f.x > f.y ? scale : f.x == f.y ? 0.5f * scale : 0.f, y = scale - x;
  out[0] = x * slope[0] * width * width, out[1] = y * slope[1] * width * width;
  out[2] = x * slope[2] * height * height, out[3] = y * slope[3] * height * height;
}

//------------------------------------------------------------------------------------------------------------------
// The pyramid: 2n texels become n by pairs, 2n + 1 become n by windows (2n + 1) / n wide, 1 stays 1.

// Texels of the finer level (size) that texel i of the coarser one averages; returns how many.
DL_HD int down_taps(int32_t size, int32_t i, int32_t* at, float* weight) {
  const int32_t half = size >> 1;
  if (size == 1) return at[0] = 0, weight[0] = 1.f, 1;
  at[0] = 2 * i, at[1] = 2 * i + 1;
  weight[0] = weight[1] = 0.5f;
  if (size == 2 * half) return 2;
  at[2] = 2 * i + 2;
  weight[0] = float(half - i) / size, weight[1] = float(half) / size, weight[2] = float(i + 1) / size;
  return 3;
}

// Texels of the coarser level that take from texel x of the finer one (size), the transpose; returns how many.
DL_HD int up_taps(int32_t size, int32_t x, int32_t* at, float* weight) {
  const int32_t half = size >> 1, i = x >> 1;
  if (size == 1) return at[0] = 0, weight[0] = 1.f, 1;
  if (size == 2 * half) return at[0] = i, weight[0] = 0.5f, 1;
  if (x & 1) return at[0] = i, weight[0] = float(half) / size, 1;
  int n = 0;
  if (i < half) at[n] = i, weight[n++] = float(half - i) / size;
  if (i > 0) at[n] = i - 1, weight[n++] = float(i) / size;
  return n;
}

// Channel c of texel (row, column) of the level below `fine` (height x width, C channels).
DL_HD float average(const float* fine, int32_t height, int32_t width, int64_t channels, int32_t row, int32_t column, int64_t c) {
  int32_t rows[3], columns[3];
  float row_weight[3], column_weight[3];
  const int n = down_taps(height, row, rows, row_weight), m = down_taps(width, column, columns, column_weight);
  float sum = 0.f;
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < m; ++j)
      sum += row_weight[i] * column_weight[j] * fine[(int64_t(rows[i]) * width + columns[j]) * channels + c];
  return sum;
}

// What texel (row, column) of a level (height x width) receives from the gradient of the level below it.
DL_HD float spread(const float* coarse, int32_t height, int32_t width, int64_t channels, int32_t row, int32_t column, int64_t c) {
  int32_t rows[2], columns[2];
  float row_weight[2], column_weight[2];
  const int n = up_taps(height, row, rows, row_weight), m = up_taps(width, column, columns, column_weight);
  const int32_t half = width > 1 ? width >> 1 : 1;
  float sum = 0.f;
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < m; ++j)
      sum += row_weight[i] * column_weight[j] * coarse[(int64_t(rows[i]) * half + columns[j]) * channels + c];
  return sum;
}

}  // namespace dl
