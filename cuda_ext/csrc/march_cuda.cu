// SPDX-License-Identifier: Apache-2.0
// march_cuda.cu - CUDA kernels of marching and compositing: one thread per ray, nothing shared, no atomics, so the
// results do not depend on the schedule.
//
// march_mark leaves counts in offsets[1..]; the caller sums them up before march_write.
#include "march.h"

using namespace dl;

namespace {

__device__ __forceinline__ int64_t ray_index() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

__device__ __forceinline__ void fill_opacities(const CompositeParams& p, int64_t ray, float* out) {
  for (int64_t i = interval_at(p, ray), end = interval_at(p, ray + 1); i < end; i++) {
    const float tau = optical_depth(p.sigma[i], p.t_start[i], p.t_end[i]);
    out[i] = opacity(tau, expf(-tau));
  }
}

}  // namespace

extern "C" __global__ void dl_march_mark(const MarchParams p) {
  const int64_t r = ray_index();
  if (r >= p.rays) return;
  KeepBit keep{p.kept + r * p.words, 0};
  for (int w = 0; w < p.words; w++) keep.bits[w] = 0;
  walk(p, load_ray(p, r), keep);
  p.offsets[r + 1] = keep.count;
}

extern "C" __global__ void dl_march_write(const MarchParams p) {
  const int64_t r = ray_index();
  if (r < p.rays) write_ray(p, r);
}

extern "C" __global__ void dl_composite(const CompositeParams p) {
  const int64_t r = ray_index();
  if (r >= p.rays) return;
  fill_opacities(p, r, p.weights);
  composite_ray(p, r);
}

extern "C" __global__ void dl_composite_backward(const CompositeParams p) {
  const int64_t r = ray_index();
  if (r >= p.rays) return;
  fill_opacities(p, r, p.light);
  composite_ray_backward(p, r);
}
