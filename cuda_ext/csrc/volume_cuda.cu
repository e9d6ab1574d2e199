// SPDX-License-Identifier: Apache-2.0
// volume_cuda.cu - a warp per ray, a lane per channel: the channels of a cell are neighbours, so that eight requests of a
// warp read a sample, and eight add its gradients. Gradients of cells are added atomically.
#include "volume.h"

using namespace dl;

namespace {

constexpr int kWarp = 32, kWarps = 8;  // of a block
constexpr unsigned kAll = 0xffffffffu;

// What a ray's way back needs of its samples.
struct Memory {
  float density[kMaxSamples];    // channel 0
  float gain[kMaxSamples];       // what a sample's end would add to the loss
  float clear[kMaxSamples + 1];  // T
};

__device__ __forceinline__ int64_t ray_index() {
  return (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
}

__device__ __forceinline__ float warp_sum(float x) {
  for (int step = kWarp / 2; step; step /= 2) x += __shfl_xor_sync(kAll, x, step);
  return x;
}

__device__ __forceinline__ float depth_of(const VolumeParams& p, float density) {
  return p.gain * softplus(density - p.shift);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) dl_volume(VolumeParams p, float* out) {
  const int64_t ray = ray_index();
  if (ray >= p.views * p.rays) return;
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t start = grid_start(p, ray);
  const float *grid = p.grid + (start < 0 ? 0 : start), *near = p.near + 3 * ray, *direction = p.direction + 3 * ray;
  out += ray * (p.channels + 1);
  for (int64_t first = 0; first < p.channels; first += kWarp) {
    const int64_t channel = first + lane;
    float clear = 1.f, sum = 0.f, whole = 0.f, along = 0.f;
    for (int k = 0; k < p.samples && start >= 0; ++k) {
      const float t = sample_at(p, k);
      const Around here = around(p, near, direction, t);
      if (!here.inside) continue;
      const float feature = channel < p.channels ? read(grid, here, channel) : 0.f;
      const float density = first ? read(grid, here, 0) : __shfl_sync(kAll, feature, 0);
      const float after = clear * exp2_(-1.44269504f * depth_of(p, density)), ends = clear - after;
      clear = after;
      sum += ends * feature, whole += ends, along -= ends * t;
    }
    if (channel >= 1 && channel < p.channels) out[channel - 1] = sum;
    if (first == 0 && lane < 2) out[p.channels - 1 + lane] = lane ? along : whole;
  }
}

extern "C" __global__ void __launch_bounds__(256) dl_volume_backward(VolumeParams p, const float* grad, float* grad_grid) {
  __shared__ Memory memories[kWarps];
  const int64_t ray = ray_index();
  if (ray >= p.views * p.rays) return;
  const int64_t start = grid_start(p, ray);
  if (start < 0) return;
  const int lane = int(threadIdx.x) % kWarp;
  Memory& memory = memories[threadIdx.x / kWarp];
  const float *grid = p.grid + start, *near = p.near + 3 * ray, *direction = p.direction + 3 * ray;
  const float* given = grad + ray * (p.channels + 1);
  float* target = grad_grid + start;
  float clear = 1.f;
  for (int k = 0; k < p.samples; ++k) {
    const float t = sample_at(p, k);
    const Around here = around(p, near, direction, t);
    float density = 0.f, gain = 0.f;
    for (int64_t first = 0; here.inside && first < p.channels; first += kWarp) {
      const int64_t channel = first + lane;
      const float feature = channel < p.channels ? read(grid, here, channel) : 0.f;
      if (first == 0) density = __shfl_sync(kAll, feature, 0);
      if (channel >= 1 && channel < p.channels) gain += given[channel - 1] * feature;
    }
    gain = warp_sum(gain) + given[p.channels - 1] - given[p.channels] * t;
    const float after = here.inside ? clear * exp2_(-1.44269504f * depth_of(p, density)) : clear;
    if (lane == 0) memory.density[k] = density, memory.gain[k] = gain, memory.clear[k] = clear;
    clear = after;
  }
  if (lane == 0) memory.clear[p.samples] = clear;
  __syncwarp();
  float later = 0.f;  // sum of gain x ends behind k
  for (int k = p.samples - 1; k >= 0; --k) {
    const Around here = around(p, near, direction, sample_at(p, k));
    const float after = memory.clear[k + 1], ends = memory.clear[k] - after, gain = memory.gain[k];
    const float slope = p.gain * sigmoid(memory.density[k] - p.shift) * (gain * after - later);
    later += gain * ends;
    for (int64_t channel = lane; here.inside && channel < p.channels; channel += kWarp) {
      const float g = channel ? ends * given[channel - 1] : slope;
      for (int i = 0; i < 8; ++i)
        if (here.weight[i] != 0.f) atomicAdd(target + here.at[i] + channel, here.weight[i] * g);
    }
  }
}
