// SPDX-License-Identifier: Apache-2.0
// modulate_cuda.cu - a warp per row, lanes along it; gradients of a and b by one thread per sample and column, which
// goes through the rows in order: no atomics.
#include "modulate.h"

using namespace dl;

namespace {

constexpr int kWarp = 32;

struct Moments {
  float mean, inverse;  // 1 / deviation
};

__device__ __forceinline__ float warp_sum(float x) {
  for (int step = kWarp / 2; step; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// Mean and 1 / deviation of a row, the same in every lane; 0 and 1 where nothing is normed.
template <class T>
__device__ __forceinline__ Moments moments_of(const ModulateParams& p, const T* x, int lane) {
  Moments found = {0.f, 1.f};
  if (!p.normed) return found;
  float total = 0.f, squares = 0.f;
  for (int64_t c = lane; c < p.width; c += kWarp) total += wide(x[c]);
  found.mean = warp_sum(total) / float(p.width);
  for (int64_t c = lane; c < p.width; c += kWarp) squares += (wide(x[c]) - found.mean) * (wide(x[c]) - found.mean);
  found.inverse = 1.f / sqrtf(warp_sum(squares) / float(p.width) + kNormEps);
  return found;
}

// a (or b, after it) of a sample's column.
template <class T>
__device__ __forceinline__ float told_at(const ModulateParams& p, int64_t sample, int64_t column) {
  return p.told ? wide(static_cast<const T*>(p.told)[sample * p.told_stride + column]) : 0.f;
}

// Gradient of u: that of y, through SiLU if there is one.
template <class T>
__device__ __forceinline__ float through(const ModulateParams& p, int64_t sample, int64_t c, float n, float grad) {
  if (!p.silu) return grad;
  return grad * silu_slope(n * (1.f + told_at<T>(p, sample, c)) + told_at<T>(p, sample, p.width + c));
}

template <class T>
__device__ __forceinline__ void forward(const ModulateParams& p, T* out) {
  const int64_t row = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= p.samples * p.rows) return;
  const int64_t sample = row / p.rows;
  for (int64_t group = 0; group < p.groups; ++group) {
    const T* x = static_cast<const T*>(p.x) + row * p.stride + group * p.width;
    T* to = out + (row * p.groups + group) * p.width;
    const Moments moments = moments_of(p, x, lane);
    for (int64_t c = lane; c < p.width; c += kWarp) {
      float u = (wide(x[c]) - moments.mean) * moments.inverse;
      if (p.told) u = u * (1.f + told_at<T>(p, sample, c)) + told_at<T>(p, sample, p.width + c);
      put(to + c, p.silu ? silu(u) : u);
    }
  }
}

template <class T>
__device__ __forceinline__ void backward(const ModulateParams& p, const T* grad, T* grad_x, Moments* all_moments) {
  const int64_t row = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= p.samples * p.rows) return;
  const int64_t sample = row / p.rows;
  for (int64_t group = 0; group < p.groups; ++group) {
    const T* x = static_cast<const T*>(p.x) + row * p.stride + group * p.width;
    const int64_t at = (row * p.groups + group) * p.width;
    const Moments moments = moments_of(p, x, lane);
    if (lane == 0) all_moments[row * p.groups + group] = moments;
    float total = 0.f, along = 0.f;
    for (int64_t c = lane; c < p.width; c += kWarp) {
      const float n = (wide(x[c]) - moments.mean) * moments.inverse;
      const float g = through<T>(p, sample, c, n, wide(grad[at + c])) * (1.f + told_at<T>(p, sample, c));
      total += g;
      along += g * n;
    }
    const float mean = p.normed ? warp_sum(total) / float(p.width) : 0.f;
    const float slope = p.normed ? warp_sum(along) / float(p.width) : 0.f;
    for (int64_t c = lane; c < p.width; c += kWarp) {
      const float n = (wide(x[c]) - moments.mean) * moments.inverse;
      const float g = through<T>(p, sample, c, n, wide(grad[at + c])) * (1.f + told_at<T>(p, sample, c));
      put(grad_x + at + c, moments.inverse * (g - mean - n * slope));
    }
  }
}

template <class T>
__device__ __forceinline__ void shares(const ModulateParams& p, const T* grad, const Moments* moments, T* grad_told) {
  const int64_t item = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (item >= p.samples * p.width) return;
  const int64_t sample = item / p.width, c = item % p.width;
  float a = 0.f, b = 0.f;
  for (int64_t row = sample * p.rows; row < (sample + 1) * p.rows; ++row) {
    const float x = wide(static_cast<const T*>(p.x)[row * p.stride + c]);
    const float n = (x - moments[row].mean) * moments[row].inverse;
    const float g = through<T>(p, sample, c, n, wide(grad[row * p.width + c]));
    a += g * n;
    b += g;
  }
  put(grad_told + 2 * sample * p.width + c, a);
  put(grad_told + (2 * sample + 1) * p.width + c, b);
}

}  // namespace

extern "C" __global__ void dl_modulate(ModulateParams p, void* out) {
  p.half ? forward(p, static_cast<Bf16*>(out)) : forward(p, static_cast<float*>(out));
}

extern "C" __global__ void dl_modulate_backward(ModulateParams p, const void* grad, void* grad_x, Moments* moments) {
  if (p.half) backward(p, static_cast<const Bf16*>(grad), static_cast<Bf16*>(grad_x), moments);
  else backward(p, static_cast<const float*>(grad), static_cast<float*>(grad_x), moments);
}

extern "C" __global__ void dl_modulate_shares(ModulateParams p, const void* grad, const Moments* moments, void* to) {
  if (p.half) shares(p, static_cast<const Bf16*>(grad), moments, static_cast<Bf16*>(to));
  else shares(p, static_cast<const float*>(grad), moments, static_cast<float*>(to));
}
