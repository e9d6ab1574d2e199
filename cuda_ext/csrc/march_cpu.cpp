// SPDX-License-Identifier: Apache-2.0
// march_cpu.cpp - CPU launchers: rays over threads, every ray by itself, so any thread count gives the same bits.
//
// Marching takes two calls: `mark` walks the rays, leaves one bit per interval and the counts; the caller makes room;
// `write` turns the bits into packed intervals. Compositing first takes all exponentials, 16 at a time over the packed
// intervals, then goes along each ray.
#include "march.h"

#include <algorithm>

namespace {

using namespace dl;

constexpr int64_t kRays = 64;        // per task
constexpr int64_t kIntervals = 4096;  // per task, when rays do not matter

// coarse = 1 where any cell of the 4^3 block of `fine` is not 0.
void reduce_blocks(const uint8_t* fine, const int32_t size[3], uint8_t* coarse, int threads) {
  const int32_t small[3] = {(size[0] + 3) / 4, (size[1] + 3) / 4, (size[2] + 3) / 4};
#pragma omp parallel for num_threads(threads) if (int64_t(size[0]) * size[1] * size[2] > 1 << 18)
  for (int32_t x = 0; x < small[0]; x++) {
    uint8_t* plane = coarse + static_cast<int64_t>(x) * small[1] * small[2];
    std::fill(plane, plane + static_cast<int64_t>(small[1]) * small[2], uint8_t{0});
    for (int32_t i = 4 * x; i < std::min(4 * x + 4, size[0]); i++) {
      for (int32_t j = 0; j < size[1]; j++) {
        const uint8_t* row = fine + (static_cast<int64_t>(i) * size[1] + j) * size[2];
        uint8_t* into = plane + static_cast<int64_t>(j / 4) * small[2];
        for (int32_t k = 0; k < size[2]; k++) into[k / 4] |= row[k];
      }
    }
  }
}

// out[i] = opacity of interval i.
void opacities(const CompositeParams& p, float* out, int threads) {
  const int64_t tasks = (p.count + kIntervals - 1) / kIntervals;
#pragma omp parallel for num_threads(threads) if (tasks > 4)
  for (int64_t task = 0; task < tasks; task++) {
    const int64_t end = std::min((task + 1) * kIntervals, p.count);
    for (int64_t i = task * kIntervals; i < end; i += kLanes) {
      const int64_t n = std::min<int64_t>(kLanes, end - i);
      float block[3][kLanes] = {};
      const float *sigma = p.sigma + i, *t_start = p.t_start + i, *t_end = p.t_end + i;
      if (n < kLanes) {
        memcpy(block[0], sigma, n * sizeof(float)), memcpy(block[1], t_start, n * sizeof(float));
        memcpy(block[2], t_end, n * sizeof(float));
        sigma = block[0], t_start = block[1], t_end = block[2];
      }
      const Vf tau = optical_depth(load(sigma), load(t_start), load(t_end));
      const Vf alpha = opacity(tau, exp2_(min_(tau, splat_f(1e4f)) * -1.44269504f));
      store(block[0], select(tau == tau, alpha, tau));  // NaN stays visible
      memcpy(out + i, block[0], n * sizeof(float));
    }
  }
}

}  // namespace

// Fills coarse, kept and offsets (the last one is the number of intervals, not cut by the capacity).
DL_API void dl_march_mark(const dl::MarchParams* params, int threads) {
  const MarchParams& p = *params;
  const int32_t small[3] = {(p.size[0] + 3) / 4, (p.size[1] + 3) / 4, (p.size[2] + 3) / 4};
  reduce_blocks(p.occupied, p.size, p.coarse[0], threads);
  reduce_blocks(p.coarse[0], small, p.coarse[1], 1);
  p.offsets[0] = 0;
  const int64_t tasks = (p.rays + kRays - 1) / kRays;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (tasks > 1)
  for (int64_t task = 0; task < tasks; task++) {
    const int64_t end = std::min((task + 1) * kRays, p.rays);
    for (int64_t r = task * kRays; r < end; r++) {
      KeepBit keep{p.kept + r * p.words, 0};
      std::fill(keep.bits, keep.bits + p.words, uint64_t{0});
      walk(p, load_ray(p, r), keep);
      p.offsets[r + 1] = keep.count;
    }
  }
  for (int64_t r = 0; r < p.rays; r++) p.offsets[r + 1] += p.offsets[r];
}

// Fills t_start and t_end, as far as the capacity goes.
DL_API void dl_march_write(const dl::MarchParams* params, int threads) {
  const MarchParams& p = *params;
  const int64_t tasks = (p.rays + kRays - 1) / kRays;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (tasks > 1)
  for (int64_t task = 0; task < tasks; task++) {
    const int64_t end = std::min((task + 1) * kRays, p.rays);
    for (int64_t r = task * kRays; r < end; r++) write_ray(p, r);
  }
}

DL_API void dl_composite(const dl::CompositeParams* params, int threads) {
  const CompositeParams& p = *params;
  const int64_t tasks = (p.rays + kRays - 1) / kRays;
  opacities(p, p.weights, threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (p.count > 4 * kIntervals)
  for (int64_t task = 0; task < tasks; task++) {
    const int64_t end = std::min((task + 1) * kRays, p.rays);
    for (int64_t r = task * kRays; r < end; r++) composite_ray(p, r);
  }
  std::fill(p.weights + interval_at(p, p.rays), p.weights + p.count, 0.f);  // padding
}

DL_API void dl_composite_backward(const dl::CompositeParams* params, int threads) {
  const CompositeParams& p = *params;
  const int64_t tasks = (p.rays + kRays - 1) / kRays;
  opacities(p, p.light, threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (p.count > 4 * kIntervals)
  for (int64_t task = 0; task < tasks; task++) {
    const int64_t end = std::min((task + 1) * kRays, p.rays);
    for (int64_t r = task * kRays; r < end; r++) composite_ray_backward(p, r);
  }
  const int64_t used = interval_at(p, p.rays);
  std::fill(p.grad_sigma + used, p.grad_sigma + p.count, 0.f);
  std::fill(p.grad_rgb + used * p.channels, p.grad_rgb + p.count * p.channels, 0.f);
}
