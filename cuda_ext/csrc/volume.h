// SPDX-License-Identifier: Apache-2.0
// volume.h - one ray through a dense grid of features; compiled for CPU and CUDA.
//
// Sample k of a ray lies at near + t_k direction, t_k = (k + 1/2) 2 reach / samples - reach. The grid is read there
// trilinearly, zeros beyond its border cells; channel 0 gives the optical depth tau_k = gain softplus(f_k0 - shift),
// none outside of the cube. With T_k = exp(-sum of tau before k) the ray ends at k by e_k = T_k - T_{k+1}; results are
// sum e_k f_kc for the other channels, sum e_k, and -sum e_k t_k.
#pragma once
#include "common.h"

namespace dl {

constexpr int kMaxSamples = 64;

struct VolumeParams {
  const float* grid;       // [G, D, H, W, C]
  const int64_t* row;      // [B] which grid a view looks through
  const float* near;       // [B, N, 3]
  const float* direction;  // [B, N, 3]
  int64_t grids, depth, height, width, channels, views, rays;
  int32_t samples;
  float reach, shift, gain;
};

// The eight cells around a sample; a weight is 0 where there is no cell.
struct Around {
  int64_t at[8];
  float weight[8];
  bool inside;
};

DL_HD float softplus(float x) {
  return max_(x, 0.f) + 0.69314718f * log2_(1.f + exp2_(-1.44269504f * abs_(x)));
}
DL_HD float sigmoid(float x) { return 1.f / (1.f + exp2_(-1.44269504f * x)); }

DL_HD float sample_at(const VolumeParams& p, int k) { return (k + 0.5f) * (2.f * p.reach / p.samples) - p.reach; }

DL_HD Around around(const VolumeParams& p, const float* near, const float* direction, float t) {
  const int64_t size[3] = {p.width, p.height, p.depth}, stride[3] = {1, p.width, p.width * p.height};
  int64_t at[3][2];
  float weight[3][2];
  bool inside = true;
  for (int axis = 0; axis < 3; ++axis) {
    const float x = (near[axis] + t * direction[axis]) / p.reach;
    inside = inside && x > -1.f && x < 1.f;
    const float place = min_(max_(((x + 1.f) * size[axis] - 1.f) * 0.5f, -1.f), float(size[axis]));
    const int64_t low = int64_t(place + 1.f) - 1;  // place >= -1: the floor
    const float part = place - low;
    for (int side = 0; side < 2; ++side) {
      const int64_t cell = low + side;
      const bool there = cell >= 0 && cell < size[axis];
      at[axis][side] = there ? cell * stride[axis] : 0;
      weight[axis][side] = there ? (side ? part : 1.f - part) : 0.f;
    }
  }
  Around found;
  found.inside = inside;
  for (int i = 0; i < 8; ++i) {
    const int x = i & 1, y = (i >> 1) & 1, z = i >> 2;
    found.at[i] = (at[0][x] + at[1][y] + at[2][z]) * p.channels;
    found.weight[i] = weight[0][x] * weight[1][y] * weight[2][z];
  }
  return found;
}

DL_HD float read(const float* grid, const Around& here, int64_t channel) {
  float sum = 0.f;
  for (int i = 0; i < 8; ++i) sum += here.weight[i] * grid[here.at[i] + channel];
  return sum;
}

// Where the grid of a ray's view starts; -1 when the view names one that is not there.
DL_HD int64_t grid_start(const VolumeParams& p, int64_t ray) {
  const int64_t row = p.row[ray / p.rays];
  return row >= 0 && row < p.grids ? row * p.depth * p.height * p.width * p.channels : -1;
}

}  // namespace dl
