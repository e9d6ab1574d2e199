// SPDX-License-Identifier: Apache-2.0
// volume_cpu.cpp - rays over threads forward, grids over threads backward (a grid's gradient is summed by one thread in
// the order of its rays, so any thread count gives the same bits). All channels of a sample are read in one pass over
// its eight cells; the prior's channel count is compiled out and stays in registers.
#include "volume.h"

#include <vector>

namespace {

using namespace dl;

// The channels of a cell or of a sample. C: how many, a multiple of 4; 0: as many as there are.
template <int C>
struct Channels {
  typedef float Four __attribute__((vector_size(16)));
  typedef float Packed __attribute__((vector_size(16), aligned(4), may_alias));
  Four v[C / 4];

  explicit Channels(int64_t) { clear(); }
  void clear() { memset(v, 0, sizeof v); }
  void add(float weight, const float* cell) {
    for (int i = 0; i < C / 4; ++i) v[i] += weight * *reinterpret_cast<const Packed*>(cell + 4 * i);
  }
  void add(float weight, const Channels& other) {
    for (int i = 0; i < C / 4; ++i) v[i] += weight * other.v[i];
  }
  void add_to(float* cell, float weight) const {
    for (int i = 0; i < C / 4; ++i) *reinterpret_cast<Packed*>(cell + 4 * i) += weight * v[i];
  }
  float first() const { return v[0][0]; }
  void set_first(float x) { v[0][0] = x; }
  float dot(const Channels& other) const {
    Four sum = {};
    for (int i = 0; i < C / 4; ++i) sum += v[i] * other.v[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }
  float* rest() { return reinterpret_cast<float*>(v) + 1; }  // all but the first
};

template <>
struct Channels<0> {
  std::vector<float> v;

  explicit Channels(int64_t count) : v(size_t(count), 0.f) {}
  void clear() { v.assign(v.size(), 0.f); }
  void add(float weight, const float* cell) {
    for (size_t i = 0; i < v.size(); ++i) v[i] += weight * cell[i];
  }
  void add(float weight, const Channels& other) { add(weight, other.v.data()); }
  void add_to(float* cell, float weight) const {
    for (size_t i = 0; i < v.size(); ++i) cell[i] += weight * v[i];
  }
  float first() const { return v[0]; }
  void set_first(float x) { v[0] = x; }
  float dot(const Channels& other) const {
    float sum = 0.f;
    for (size_t i = 0; i < v.size(); ++i) sum += v[i] * other.v[i];
    return sum;
  }
  float* rest() { return v.data() + 1; }
};

template <int C>
void read_all(const float* grid, const Around& here, Channels<C>& into) {
  into.clear();
  for (int i = 0; i < 8; ++i) into.add(here.weight[i], grid + here.at[i]);
}

float kept(const VolumeParams& p, float density) { return exp2_(-1.44269504f * p.gain * softplus(density - p.shift)); }

// out [C + 1]: channels - 1 features, how much of the ray ends, how far before its middle; zeros without a grid.
template <int C>
void ray_forward(const VolumeParams& p, int64_t ray, float* out) {
  Channels<C> feature(p.channels), sum(p.channels);
  float clear = 1.f, total = 0.f, before = 0.f;
  const int64_t start = grid_start(p, ray);
  const float *grid = p.grid + start, *near = p.near + 3 * ray, *direction = p.direction + 3 * ray;
  for (int k = 0; k < p.samples && start >= 0; ++k) {
    const float t = sample_at(p, k);
    const Around here = around(p, near, direction, t);
    if (!here.inside) continue;
    read_all(grid, here, feature);
    const float after = clear * kept(p, feature.first()), ends = clear - after;
    clear = after;
    sum.add(ends, feature);
    total += ends;
    before -= ends * t;
  }
  memcpy(out, sum.rest(), size_t(p.channels - 1) * sizeof(float));
  out[p.channels - 1] = total;
  out[p.channels] = before;
}

// Adds the gradient of a ray's results to the cells of its grid.
template <int C>
void ray_backward(const VolumeParams& p, int64_t ray, const float* grad, float* grad_grid) {
  const int64_t start = grid_start(p, ray);
  if (start < 0) return;
  const float *grid = p.grid + start, *near = p.near + 3 * ray, *direction = p.direction + 3 * ray;
  Channels<C> feature(p.channels), given(p.channels);  // the gradient of a feature lies at its channel
  memcpy(given.rest(), grad, size_t(p.channels - 1) * sizeof(float));
  float gain[kMaxSamples], density[kMaxSamples], clear[kMaxSamples + 1];  // gain: what a sample's end adds to the loss
  Around places[kMaxSamples];
  clear[0] = 1.f;
  for (int k = 0; k < p.samples; ++k) {
    const float t = sample_at(p, k);
    const Around& here = places[k] = around(p, near, direction, t);
    clear[k + 1] = clear[k];
    gain[k] = grad[p.channels - 1] - grad[p.channels] * t;
    if (!here.inside) continue;
    read_all(grid, here, feature);
    density[k] = feature.first();
    clear[k + 1] *= kept(p, density[k]);
    gain[k] += feature.dot(given);
  }
  float later = 0.f;  // sum of gain x ends behind k
  for (int k = p.samples - 1; k >= 0; --k) {
    const float ends = clear[k] - clear[k + 1];
    if (places[k].inside) {
      const float slope = p.gain * sigmoid(density[k] - p.shift) * (gain[k] * clear[k + 1] - later);
      feature.clear();
      feature.add(ends, given);
      feature.set_first(slope);
      for (int i = 0; i < 8; ++i) {
        if (places[k].weight[i] != 0.f) feature.add_to(grad_grid + places[k].at[i], places[k].weight[i]);
      }
    }
    later += gain[k] * ends;
  }
}

template <int C>
void backward(const VolumeParams& p, const float* grad, float* grad_grid, int threads) {
  const int64_t size = p.depth * p.height * p.width * p.channels;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t set = 0; set < p.grids; ++set) {
    float* target = grad_grid + set * size;
    memset(target, 0, size_t(size) * sizeof(float));
    for (int64_t view = 0; view < p.views; ++view) {
      if (p.row[view] != set) continue;
      for (int64_t ray = view * p.rays; ray < (view + 1) * p.rays; ++ray) {
        ray_backward<C>(p, ray, grad + ray * (p.channels + 1), target);
      }
    }
  }
}

}  // namespace

// out [B, N, C + 1].
DL_API int dl_volume(const dl::VolumeParams* params, float* out, int threads) {
  const VolumeParams p = *params;
  const auto run = p.channels == 20 ? ray_forward<20> : ray_forward<0>;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
  for (int64_t ray = 0; ray < p.views * p.rays; ++ray) run(p, ray, out + ray * (p.channels + 1));
  return 0;
}

// grad [B, N, C + 1] to grad_grid [G, D, H, W, C].
DL_API int dl_volume_backward(const dl::VolumeParams* params, const float* grad, float* grad_grid, int threads) {
  const VolumeParams& p = *params;
  p.channels == 20 ? backward<20>(p, grad, grad_grid, threads) : backward<0>(p, grad, grad_grid, threads);
  return 0;
}
