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

DL_HD float optical_depth_at(const VolumeParams& p, const float* grid, const Around& here) {
  return here.inside ? p.gain * softplus(read(grid, here, 0) - p.shift) : 0.f;
}

// Where the grid of a ray's view starts; -1 when the view names one that is not there.
DL_HD int64_t grid_start(const VolumeParams& p, int64_t ray) {
  const int64_t row = p.row[ray / p.rays];
  return row >= 0 && row < p.grids ? row * p.depth * p.height * p.width * p.channels : -1;
}

// out [C + 1]: channels - 1 features, how much of the ray ends, how far before its middle; zeros without a grid.
DL_HD void volume_ray(const VolumeParams& p, int64_t ray, int64_t channels, float* out) {
  for (int64_t c = 0; c <= channels; ++c) out[c] = 0.f;
  const int64_t start = grid_start(p, ray);
  if (start < 0) return;
  const float *grid = p.grid + start, *near = p.near + 3 * ray, *direction = p.direction + 3 * ray;
  float clear = 1.f;
  for (int k = 0; k < p.samples; ++k) {
    const float t = sample_at(p, k);
    const Around here = around(p, near, direction, t);
    if (!here.inside) continue;
    const float after = clear * exp2_(-1.44269504f * optical_depth_at(p, grid, here)), ends = clear - after;
    clear = after;
    for (int i = 0; i < 8; ++i) {
      const float weight = ends * here.weight[i];
      const float* cell = grid + here.at[i];
      for (int64_t c = 1; c < channels; ++c) out[c - 1] += weight * cell[c];
    }
    out[channels - 1] += ends;
    out[channels] -= ends * t;
  }
}

// Calls add(cell, weight, ends, gradient of channel 0) for each cell around each sample: the caller adds
// weight x ends x grad[c - 1] to channel c of the cell, and weight x the gradient to channel 0. Never without a grid.
template <class Add>
DL_HD void volume_ray_backward(const VolumeParams& p, int64_t ray, int64_t channels, const float* grad, const Add& add) {
  const int64_t start = grid_start(p, ray);
  if (start < 0) return;
  const float *grid = p.grid + start, *near = p.near + 3 * ray, *direction = p.direction + 3 * ray;
  float gain[kMaxSamples], clear[kMaxSamples + 1];  // what a sample's end would add to the loss; T
  clear[0] = 1.f;
  for (int k = 0; k < p.samples; ++k) {
    const float t = sample_at(p, k);
    const Around here = around(p, near, direction, t);
    clear[k + 1] = clear[k] * exp2_(-1.44269504f * optical_depth_at(p, grid, here));
    gain[k] = grad[channels - 1] - grad[channels] * t;
    if (!here.inside) continue;
    float sum = 0.f;
    for (int i = 0; i < 8; ++i) {
      const float* cell = grid + here.at[i];
      float each = 0.f;
      for (int64_t c = 1; c < channels; ++c) each += grad[c - 1] * cell[c];
      sum += here.weight[i] * each;
    }
    gain[k] += sum;
  }
  float later = 0.f;  // sum of gain x ends behind k
  for (int k = p.samples - 1; k >= 0; --k) {
    const Around here = around(p, near, direction, sample_at(p, k));
    const float ends = clear[k] - clear[k + 1];
    if (here.inside) {
      const float slope = p.gain * sigmoid(read(grid, here, 0) - p.shift) * (gain[k] * clear[k + 1] - later);
      for (int i = 0; i < 8; ++i)
        if (here.weight[i] != 0.f) add(here.at[i], here.weight[i], ends, slope);
    }
    later += gain[k] * ends;
  }
}

}  // namespace dl
