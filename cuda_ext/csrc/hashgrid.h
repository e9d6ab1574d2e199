// SPDX-License-Identifier: Apache-2.0
// hashgrid.h - where a position lies in a level, which rows of the table surround it and how they are weighted.
// Per-sample arithmetic only, shared by hashgrid_cpu.cpp and hashgrid_cuda.cu. The definition is reference/hashgrid.py.
#pragma once
#include "common.h"

namespace dl {

// One level of the encoding: a position x lies at x scale + shift between vertices, of which a row has `side`.
struct GridLevel {
  float scale, shift;
  float last;       // the cell at x = 1
  int wraps;        // the corner after the last of a dense row is the first of the next; of the level's last, its first
  int hashed;       // 0: row = i + j * step_y + k * step_z    1: row = (i ^ j * step_y ^ k * step_z) & mask
  unsigned step_y;  // dense: side                             hashed: prime of y
  unsigned step_z;  // dense: side^2                           hashed: prime of z
  unsigned rows;
  unsigned mask;    // rows - 1; used as a mask when hashed
  long long first;  // row of the level in the whole table
};

DL_HD GridLevel grid_level(long long side, float scale, float shift, long long first, long long end) {
  GridLevel level;
  level.scale = scale;
  level.shift = shift;
  const float top = scale + shift, below = static_cast<float>(static_cast<int>(top));
  level.last = below < top || top < 1.f ? below : below - 1.f;
  level.wraps = shift != 0.f;
  level.hashed = side * side * side > end - first;
  level.step_y = level.hashed ? 2654435761u : static_cast<unsigned>(side);
  level.step_z = level.hashed ? 805459861u : static_cast<unsigned>(side * side);
  level.rows = static_cast<unsigned>(end - first);
  level.mask = level.rows - 1u;
  level.first = first;
  return level;
}

constexpr int kMaxLevels = 32;

// One call: the encoding, its inputs and its output.
struct GridParams {
  int64_t offsets[kMaxLevels + 1];  // first row of each level; after the last one the number of rows
  int32_t sides[kMaxLevels];        // vertices per axis
  float scales[kMaxLevels];
  float shift;
  int32_t levels;
  int32_t active;          // levels in use: 0..active-1, the others are zero
  int32_t features;        // F per level: 1, 2, 4 or 8
  int32_t smooth;          // not 0: smoothstep
  const float* positions;  // [count, 3]
  const float* table;      // [rows, F]
  const float* grad;       // [count, levels F], cotangent of the features
  const float* direction;  // [count, 3], cotangent of the position gradient; null: not a second derivative
  float* out;
  int64_t count;

  DL_HD GridLevel level(int l) const { return grid_level(sides[l], scales[l], shift, offsets[l], offsets[l + 1]); }
  DL_HD int width() const { return levels * features; }
};

// Row, within the level, of vertex (i, j, k); the products come ready because neighbours share them.
DL_HD unsigned vertex_row(const GridLevel& level, unsigned i, unsigned j_step, unsigned k_step) {
  if (level.hashed) return (i ^ j_step ^ k_step) & level.mask;
  const unsigned row = i + j_step + k_step;
  return level.wraps && row >= level.rows ? row - level.rows : row;
}

template <class T>
DL_HD T clamp_unit(T x) { return min_(T{} + 1.f, max_(T{}, x)); }  // NaN passes

template <class T>
DL_HD T inside_unit(T x) { return select(x >= 0.f, select(x <= 1.f, T{} + 1.f, T{}), T{}); }  // the clamp's derivative

DL_HD float whole(float x) { return static_cast<float>(static_cast<int>(x)); }  // of x >= 0

// x * scale - origin with one rounding, so that no compiler's choice about fused operations moves a sample.
DL_HD float exact_fraction(float x, float scale, float origin) {
#if defined(__FMA__) || defined(__CUDA_ARCH__) || defined(__aarch64__)
  return fmaf(x, scale, -origin);
#else
  return static_cast<float>(static_cast<double>(x) * scale - origin);
#endif
}

// x in [0, 1] -> cell in 0..last and the fraction inside it: 1 at the far border of the last cell, NaN for NaN.
template <bool kShifted, class T>
DL_HD T split_cell(T x, const GridLevel& level, T* fraction) {
  const float scale = level.scale, shift = kShifted ? level.shift : 0.f, last = level.last;
  const T place = kShifted ? x * scale + shift : x * scale;
  const T cell = whole(max_(min_(T{} + last, place), T{}));
  const T f = exact_fraction(x, scale, cell - shift);
  const T below = cell - select(f < 0.f, T{} + 1.f, T{});  // the place was rounded up to the next vertex
  *fraction = exact_fraction(x, scale, below - shift);
  return below;
}

// Interpolation weight of the far vertex, and its derivatives in the fraction.
template <class T>
DL_HD T ease(T f, int smooth) { return smooth ? f * f * (3.f - 2.f * f) : f; }
template <class T>
DL_HD T ease_slope(T f, int smooth) { return smooth ? 6.f * f * (1.f - f) : T{} + 1.f; }
template <class T>
DL_HD T ease_curve(T f, int smooth) { return smooth ? 6.f - 12.f * f : T{}; }

}  // namespace dl
