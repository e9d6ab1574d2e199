// SPDX-License-Identifier: Apache-2.0
// density.h - one Gaussian on a grid, a line of cells at a time; compiled for CPU and CUDA.
//
// A cell at offset (x, y, z) from a Gaussian lies d = A (x, y, z) standard deviations away, row k of A being axis k over
// its width. Along z that is d = p + q z with p = A (x, y, 0). With r what of p is across q, |d|^2 = |r|^2 + |q|^2 (z + t)^2,
// t = p.q / |q|^2: |d| < kReach between two roots. Lengths are of vectors subtracted before, where the quadratic itself
// would cancel. The specification is cuda_ext/reference/density.py.
#pragma once
#include "common.h"

namespace dl {

constexpr float kReach = 3.f;  // standard deviations

struct DensityParams {
  const float* places;   // [N, 3] cells
  const float* turns;    // [N, 3, 3] columns are axes
  const float* widths;   // [N, 3] cells
  const float* weights;  // [N, 4]
  int64_t count, x, y, z;
};

struct Gaussian {
  float axes[3][3];       // A
  float place[3], weight[4];
  float inverse;          // 1 / |q|^2
  int32_t low[3], high[3];  // cells of the box around it; empty when low > high
};

constexpr float kThinnest = 1e-12f;  // cells; what is thinner has no distances
constexpr float kSlack = 0.02f;  // cells by which a line's ends may be off: the cells say themselves what they are

// Lines of cells along z: one, or a vector of neighbours in y.
template <class T>
struct DensityLines {
  T p[3];
  T first, last;  // from where to where, cells; empty when first > last
};

DL_HD int32_t clamped(double value, int64_t low, int64_t high) {
  return value < double(low) ? int32_t(low) : value > double(high) ? int32_t(high) : int32_t(value);
}

// Nothing of one that is not finite.
DL_HD Gaussian gaussian_at(const DensityParams& g, int64_t i) {
  Gaussian o;
  const float *turn = g.turns + 9 * i, *width = g.widths + 3 * i;
  const int64_t size[3] = {g.x, g.y, g.z};
  bool sound = true;
  for (int k = 0; k < 4; ++k) {
    o.weight[k] = g.weights[4 * i + k];
    sound = sound && finite_(o.weight[k]);
  }
  for (int axis = 0; axis < 3; ++axis) {
    o.place[axis] = g.places[3 * i + axis];
    double square = 0;
    for (int k = 0; k < 3; ++k) {
      o.axes[k][axis] = turn[3 * axis + k] / width[k];
      square += double(turn[3 * axis + k] * width[k]) * double(turn[3 * axis + k] * width[k]);
      sound = sound && finite_(o.axes[k][axis]) && width[k] > kThinnest;
    }
    const double reach = kReach * sqrt(square), middle = o.place[axis];
    sound = sound && finite_(float(square)) && finite_(o.place[axis]);
    o.low[axis] = sound ? clamped(ceil(middle - reach), 0, size[axis]) : 1;
    o.high[axis] = sound ? clamped(floor(middle + reach), -1, size[axis] - 1) : 0;
  }
  o.inverse = 1.f / (o.axes[0][2] * o.axes[0][2] + o.axes[1][2] * o.axes[1][2] + o.axes[2][2] * o.axes[2][2]);
  if (!sound || !finite_(o.inverse)) o.low[0] = 1, o.high[0] = 0;
  return o;
}

template <class T>
DL_HD DensityLines<T> density_lines(const Gaussian& g, float dx, T dy) {
  DensityLines<T> o;
  T t{}, across{};
  for (int k = 0; k < 3; ++k) {
    o.p[k] = g.axes[k][0] * dx + g.axes[k][1] * dy;
    t = t + o.p[k] * g.axes[k][2];
  }
  t = t * g.inverse;
  for (int k = 0; k < 3; ++k) {
    const T r = o.p[k] - t * g.axes[k][2];
    across = across + r * r;
  }
  const T zero{}, left = (kReach * kReach + 1e-3f) - across, half = sqrt_(max_(left, zero) * g.inverse);
  o.first = max_(g.place[2] - t - half - kSlack, zero + float(g.low[2]));
  o.last = min_(g.place[2] - t + half + kSlack, zero + float(g.high[2]));
  o.last = select(left < zero, zero - 1.f, o.last);
  return o;
}

// exp(-|d|^2 / 2) at offset z of a line, 0 beyond reach.
template <class T>
DL_HD T density_at(const Gaussian& g, const float* p, T z) {
  T square{};
  for (int k = 0; k < 3; ++k) {
    const T d = p[k] + g.axes[k][2] * z;
    square = square + d * d;
  }
  return select(square < kReach * kReach, exp2_(-0.72134752f * square), T{});
}

}  // namespace dl
