// SPDX-License-Identifier: Apache-2.0
// texture_cuda.cu - fetches: one thread per pixel; pyramid: one thread per texel, one launch per large level, and one block
// per image for all small ones together.
#include "texture.h"

using namespace dl;

namespace {

__device__ int64_t global_thread() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

__device__ int32_t level_side(int32_t size, int level) { return size >> level > 1 ? size >> level : 1; }

}  // namespace

extern "C" __global__ void dl_texture_fetch(TextureParams p, float* out) {
  const int64_t k = global_thread();
  if (k < p.views * p.rows * p.columns) fetch_pixel(p, lookup(p, k), p.channels, out + k * p.channels);
}

extern "C" __global__ void dl_texture_fetch_backward(
    TextureParams p, const float* grad, float* grad_pyramid, float* grad_uv, float* grad_level) {
  const int64_t k = global_thread();
  if (k >= p.views * p.rows * p.columns) return;
  fetch_pixel_backward(p, lookup(p, k), p.channels, grad + k * p.channels, grad_uv + 2 * k, grad_level ? grad_level + k : nullptr,
                       [=](int64_t at, float g) { atomicAdd(grad_pyramid + at, g); });
}

// Uses of p only the picture's and the image's sizes, and views.
extern "C" __global__ void dl_texture_level(TextureParams p, const float* slope, float* level) {
  const int64_t k = global_thread();
  if (k < p.views * p.rows * p.columns) level[k] = level_of(slope + 4 * k, float(p.width), float(p.height));
}

extern "C" __global__ void dl_texture_level_backward(TextureParams p, const float* slope, const float* grad, float* out) {
  const int64_t k = global_thread();
  if (k < p.views * p.rows * p.columns) level_backward(slope + 4 * k, float(p.width), float(p.height), grad[k], out + 4 * k);
}

namespace {

// Texel k of level l of a set, from the level before.
__device__ void average_texel(const TextureParams& p, float* set, int l, int64_t k) {
  const int32_t w = level_side(p.width, l), row = int32_t(k / w), column = int32_t(k % w);
  for (int64_t c = 0; c < p.channels; ++c)
    set[(p.start[l] + k) * p.channels + c] =
        average(set + p.start[l - 1] * p.channels, level_side(p.height, l - 1), level_side(p.width, l - 1), p.channels, row, column, c);
}

// Gradient of texel k of level l - 1 of a set, with what level l hands it.
__device__ void spread_texel(const TextureParams& p, const float* grad, float* coarse, float* out, int64_t set, int l, int64_t k) {
  const int32_t h = level_side(p.height, l - 1), w = level_side(p.width, l - 1);
  const int64_t n = p.channels, base = p.start[1];
  float* levels = coarse + set * (p.texels - base) * n;
  float* to = l == 1 ? out + (set * h * w + k) * n : levels + (p.start[l - 1] - base + k) * n;
  const float* own = l == 1 ? grad + (set * p.texels + k) * n : to;
  for (int64_t c = 0; c < n; ++c)
    to[c] = own[c] + spread(levels + (p.start[l] - base) * n, h, w, n, int32_t(k / w), int32_t(k % w), c);
}

__device__ int64_t texels_of(const TextureParams& p, int l) {
  return int64_t(level_side(p.height, l)) * level_side(p.width, l);
}

}  // namespace

// Computes level p.levels from the one before.
extern "C" __global__ void dl_texture_pyramid(TextureParams p, float* pyramid) {
  const int64_t k = global_thread(), count = texels_of(p, p.levels);
  if (k < p.sets * count) average_texel(p, pyramid + k / count * p.texels * p.channels, p.levels, k % count);
}

// The same for levels p.levels to p.rows, small ones; a block per set.
extern "C" __global__ void __launch_bounds__(256) dl_texture_pyramid_small(TextureParams p, float* pyramid) {
  for (int l = p.levels; l <= p.rows; ++l, __syncthreads())
    for (int64_t k = threadIdx.x; k < texels_of(p, l); k += blockDim.x)
      average_texel(p, pyramid + blockIdx.x * p.texels * p.channels, l, k);
}

// Folds the gradient of level p.levels into the one before: within coarse [A, P - h w, C], which holds the levels from 1 on, or
// with that of level 0 in grad [A, P, C] into out [A, h, w, C].
extern "C" __global__ void dl_texture_pyramid_backward(TextureParams p, const float* grad, float* coarse, float* out) {
  const int64_t k = global_thread(), count = texels_of(p, p.levels - 1);
  if (k < p.sets * count) spread_texel(p, grad, coarse, out, k / count, p.levels, k % count);
}

// The same for levels p.levels down to p.rows, small ones; a block per set.
extern "C" __global__ void __launch_bounds__(256)
    dl_texture_pyramid_small_backward(TextureParams p, const float* grad, float* coarse, float* out) {
  for (int l = p.levels; l >= p.rows; --l, __syncthreads())
    for (int64_t k = threadIdx.x; k < texels_of(p, l - 1); k += blockDim.x)
      spread_texel(p, grad, coarse, out, blockIdx.x, l, k);
}
