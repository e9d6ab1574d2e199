// SPDX-License-Identifier: Apache-2.0
// hashgrid.h - where a position lies in a level, which rows of the table surround it and how they are weighted.
// Per-sample arithmetic only, shared by hashgrid_cpu.cpp and hashgrid_cuda.cu. The definition is reference/hashgrid.py.
#pragma once
#include "common.h"

namespace dl {

// One level of the encoding: `cells` cells and cells + 1 vertices per axis.
struct GridLevel {
  int cells;
  int hashed;       // 0: row = i + j * step_y + k * step_z    1: row = (i ^ j * step_y ^ k * step_z) & mask
  unsigned step_y;  // dense: cells + 1                        hashed: prime of y
  unsigned step_z;  // dense: (cells + 1)^2                    hashed: prime of z
  unsigned mask;    // rows - 1; used as a mask when hashed
  long long first;  // row of the level in the whole table
};

DL_HD GridLevel grid_level(long long cells, long long first, long long end) {
  const long long side = cells + 1;
  GridLevel level;
  level.cells = static_cast<int>(cells);
  level.hashed = side * side * side > end - first;
  level.step_y = level.hashed ? 2654435761u : static_cast<unsigned>(side);
  level.step_z = level.hashed ? 805459861u : static_cast<unsigned>(side * side);
  level.mask = static_cast<unsigned>(end - first - 1);
  level.first = first;
  return level;
}

constexpr int kMaxLevels = 32;

// One call: the encoding, its inputs and its output.
struct GridParams {
  int64_t offsets[kMaxLevels + 1];  // first row of each level; after the last one the number of rows
  int32_t cells[kMaxLevels];        // per axis
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

  DL_HD GridLevel level(int l) const { return grid_level(cells[l], offsets[l], offsets[l + 1]); }
  DL_HD int width() const { return levels * features; }
};

// Row, within the level, of vertex (i, j, k); the products come ready because neighbours share them.
DL_HD unsigned vertex_row(const GridLevel& level, unsigned i, unsigned j_step, unsigned k_step) {
  return level.hashed ? ((i ^ j_step ^ k_step) & level.mask) : i + j_step + k_step;
}

template <class T>
DL_HD T clamp_unit(T x) { return min_(T{} + 1.f, max_(T{}, x)); }  // NaN passes

template <class T>
DL_HD T inside_unit(T x) { return select(x >= 0.f, select(x <= 1.f, T{} + 1.f, T{}), T{}); }  // the clamp's derivative

DL_HD float whole(float x) { return static_cast<float>(static_cast<int>(x)); }  // of x >= 0

// x * size - cell with one rounding, so that no compiler's choice about fused operations moves a sample.
DL_HD float exact_fraction(float x, float size, float cell) {
#if defined(__FMA__) || defined(__CUDA_ARCH__) || defined(__aarch64__)
  return fmaf(x, size, -cell);
#else
  return static_cast<float>(static_cast<double>(x) * size - cell);
#endif
}

// x in [0, 1] -> cell in 0..size-1 and the fraction inside it: 1 at the far border of the last cell, NaN for NaN.
template <class T>
DL_HD T split_cell(T x, float size, T* fraction) {
  const T scaled = x * size;
  const T cell = whole(max_(min_(T{} + (size - 1.f), scaled), T{}));
  const T f = exact_fraction(x, size, cell);
  const T below = cell - select(f < 0.f, T{} + 1.f, T{});  // the product was rounded up to the next vertex
  *fraction = exact_fraction(x, size, below);
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
