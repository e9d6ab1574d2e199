// SPDX-License-Identifier: Apache-2.0
// march_cuda.cu - CUDA kernels of marching and compositing. march_mark walks with one thread per ray; the others take a
// warp per ray, whose lanes read and write neighbouring intervals and sum by scans in a fixed order. Nothing is shared
// between rays, no atomics, so the results do not depend on the schedule.
//
// march_mark leaves counts in offsets[1..]; the caller sums them up before march_write.
#include "march.h"

using namespace dl;

namespace {

__device__ __forceinline__ int64_t ray_index() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

constexpr int kWarp = 32;
constexpr int kTogether = 4;  // channels summed in one pass
constexpr unsigned kAll = 0xffffffffu;

__device__ __forceinline__ int64_t warp_index() { return ray_index() / kWarp; }

__device__ __forceinline__ float warp_sum(float x) {
  for (int step = kWarp / 2; step; step /= 2) x += __shfl_xor_sync(kAll, x, step);
  return x;
}

// Sum over the lanes up to and with this one.
__device__ __forceinline__ float sum_up_to(float x, int lane) {
  for (int step = 1; step < kWarp; step *= 2) {
    const float before = __shfl_up_sync(kAll, x, step);
    if (lane >= step) x += before;
  }
  return x;
}

// Sum over this lane and those after it.
__device__ __forceinline__ float sum_from(float x, int lane) {
  for (int step = 1; step < kWarp; step *= 2) {
    const float after = __shfl_down_sync(kAll, x, step);
    if (lane + step < kWarp) x += after;
  }
  return x;
}

__device__ __forceinline__ float last_of(float x) { return __shfl_sync(kAll, x, kWarp - 1); }

// How much light reaches an interval and leaves it, T = exp(-sum of tau), and its opacity.
struct Dimming {
  float before, after, opacity;
};

// Of the lane's interval i of a ray, 32 at a time; `depth` is the sum of tau so far, carried on.
__device__ __forceinline__ Dimming dimming(const CompositeParams& p, int64_t i, bool here, int lane, float& depth) {
  const float tau = here ? optical_depth(p.sigma[i], p.t_start[i], p.t_end[i]) : 0.f;
  const float upto = sum_up_to(tau, lane), before = __shfl_up_sync(kAll, upto, 1);
  const float start = depth + (lane ? before : 0.f), end = depth + upto;
  depth = last_of(end);
  return {expf(-start), expf(-end), opacity(tau, expf(-tau))};
}

__device__ __forceinline__ float middle_of(const CompositeParams& p, int64_t i, float base) {
  return 0.5f * ((p.t_start[i] - base) + (p.t_end[i] - base));
}

// out[c] = sum of w_i rgb_ic; `end` is that of the intervals that light reaches, which are the first ones.
__device__ void sum_channels(const CompositeParams& p, int64_t begin, int64_t end, int lane, float* out) {
  for (int first = 0; first < p.channels; first += kTogether) {
    float sum[kTogether] = {};
    for (int64_t i = begin + lane; i < end; i += kWarp) {
      const float w = p.weights[i];
#pragma unroll
      for (int c = 0; c < kTogether; c++)
        if (first + c < p.channels) sum[c] += w * p.rgb[i * p.channels + first + c];
    }
#pragma unroll
    for (int c = 0; c < kTogether; c++) {
      const float all = warp_sum(sum[c]);
      if (lane == 0 && first + c < p.channels) out[first + c] = all;
    }
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128) dl_march_mark(const MarchParams p) {
  const int64_t r = ray_index();
  if (r >= p.rays) return;
  KeepBit keep{p.kept + r * p.words, 0};
  for (int w = 0; w < p.words; w++) keep.bits[w] = 0;
  walk(p, load_ray(p, r), keep);
  p.offsets[r + 1] = keep.count;
}

// As write_ray: the intervals of equal length by their bits, 32 at a time; those that grow one after the other.
extern "C" __global__ void __launch_bounds__(128) dl_march_write(const MarchParams p) {
  const int64_t r = warp_index();
  if (r >= p.rays) return;
  const int lane = int(threadIdx.x) % kWarp;
  if (p.cone > 0.f) {
    if (lane == 0) write_ray(p, r);
    return;
  }
  const int64_t all = p.offsets[r + 1], end = all < p.capacity ? all : p.capacity;
  int64_t at = p.offsets[r];
  if (at >= end) return;
  const Ray ray = load_ray(p, r);
  const Interval first = first_interval(p, ray);
  for (int half = 0; half < 2 * p.words && at < end; half++) {
    const unsigned bits = unsigned(p.kept[r * p.words + half / 2] >> (half % 2 * kWarp));
    const int k = kWarp * half + lane;
    const int64_t mine = at + __popc(bits & ((1u << lane) - 1u));
    if ((bits >> lane & 1u) && mine < end) {
      const Interval i = k ? next_interval(p, ray, first, k) : first;
      p.t_start[mine] = i.t, p.t_end[mine] = i.t + i.width, p.ray[mine] = r;
    }
    at += __popc(bits);
  }
}

// Calls clear(i) for this lane's part of the intervals that belong to no ray: the padding of a march with a capacity.
template <class Clear>
__device__ __forceinline__ void padding(const CompositeParams& p, int64_t ray, int lane, const Clear& clear) {
  for (int64_t i = interval_at(p, p.rays) + ray * kWarp + lane; i < p.count; i += p.rays * kWarp) clear(i);
}

// Sums of one ray, see composite_ray.
extern "C" __global__ void __launch_bounds__(128) dl_composite(const CompositeParams p) {
  const int64_t ray = warp_index();
  if (ray >= p.rays) return;
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t begin = interval_at(p, ray), end = interval_at(p, ray + 1);
  const float base = begin < end ? p.t_start[begin] : 0.f;
  float depth = 0.f, mass = 0.f, moment = 0.f, between = 0.f, within = 0.f;
  int64_t lit = begin;
  for (int64_t first = begin; first < end; first += kWarp) {
    const int64_t i = first + lane;
    const bool here = i < end;
    const Dimming dim = dimming(p, i, here, lane, depth);
    const bool alive = here && dim.before >= p.stop;
    const float w = alive ? dim.before * dim.opacity : 0.f;
    lit += __popc(__ballot_sync(kAll, alive));
    const float middle = here ? middle_of(p, i, base) : 0.f;
    const float mass_upto = mass + sum_up_to(w, lane), moment_upto = moment + sum_up_to(w * middle, lane);
    if (here) {
      p.weights[i] = w;
      between += w * (middle * (mass_upto - w) - (moment_upto - w * middle));
      within += w * w * (p.t_end[i] - p.t_start[i]);
    }
    mass = last_of(mass_upto), moment = last_of(moment_upto);
  }
  between = warp_sum(between), within = warp_sum(within);
  sum_channels(p, begin, lit, lane, p.out + ray * p.channels);
  padding(p, ray, lane, [&](int64_t i) { p.weights[i] = 0.f; });
  if (lane) return;
  float* sums = p.sums + 4 * ray;
  sums[0] = mass, sums[1] = moment + base * mass, sums[2] = 2.f * between + within * (1.f / 3.f), sums[3] = moment;
}

// Gradients of one ray, see composite_ray_backward. On the way light[i] holds T_{i+1}, -1 where no light comes, and
// grad_sigma[i] holds G_i.
extern "C" __global__ void __launch_bounds__(128) dl_composite_backward(const CompositeParams p) {
  const int64_t ray = warp_index();
  if (ray >= p.rays) return;
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t begin = interval_at(p, ray), end = interval_at(p, ray + 1);
  const float* g_out = p.grad_out ? p.grad_out + ray * p.channels : nullptr;
  float g_sums[3] = {0.f, 0.f, 0.f};
  for (int k = 0; k < 3 && p.grad_sums; k++) g_sums[k] = p.grad_sums[4 * ray + k];
  const float mass = p.sums[4 * ray], moment = p.sums[4 * ray + 3], base = begin < end ? p.t_start[begin] : 0.f;
  float depth = 0.f, near_mass = 0.f, near_moment = 0.f;
  for (int64_t first = begin; first < end; first += kWarp) {
    const int64_t i = first + lane;
    const bool here = i < end;
    const Dimming dim = dimming(p, i, here, lane, depth);
    const bool alive = here && dim.before >= p.stop;
    const float w = here ? p.weights[i] : 0.f, width = here ? p.t_end[i] - p.t_start[i] : 0.f;
    const float middle = here ? middle_of(p, i, base) : 0.f;
    const float mass_upto = near_mass + sum_up_to(w, lane), moment_upto = near_moment + sum_up_to(w * middle, lane);
    const float side = middle * (2.f * mass_upto - w - mass) - (2.f * moment_upto - w * middle - moment);
    near_mass = last_of(mass_upto), near_moment = last_of(moment_upto);
    if (!here) continue;
    float g = g_sums[0] + g_sums[1] * (base + middle) + g_sums[2] * (2.f * side + w * width * (2.f / 3.f));
    if (p.grad_weights) g += p.grad_weights[i];
    for (int c = 0; c < p.channels; c++) {
      const float go = g_out ? g_out[c] : 0.f;
      g += go * p.rgb[i * p.channels + c];
      p.grad_rgb[i * p.channels + c] = alive ? w * go : 0.f;
    }
    p.light[i] = alive ? dim.after : -1.f;
    p.grad_sigma[i] = alive ? g : 0.f;
  }
  float behind = 0.f;
  for (int64_t first = begin + (end - begin - 1) / kWarp * kWarp; first >= begin && begin < end; first -= kWarp) {
    const int64_t i = first + lane;
    const bool here = i < end;
    const float g = here ? p.grad_sigma[i] : 0.f, each = here ? p.weights[i] * g : 0.f;
    const float from = behind + sum_from(each, lane);
    if (here) {
      const float light = p.light[i];
      p.grad_sigma[i] =
          light >= 0.f && p.sigma[i] >= 0.f ? (p.t_end[i] - p.t_start[i]) * (light * g - (from - each)) : 0.f;
    }
    behind = __shfl_sync(kAll, from, 0);
  }
  padding(p, ray, lane, [&](int64_t i) {
    p.grad_sigma[i] = 0.f;
    for (int c = 0; c < p.channels; c++) p.grad_rgb[i * p.channels + c] = 0.f;
  });
}
