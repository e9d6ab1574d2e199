// SPDX-License-Identifier: Apache-2.0
// antialias_cuda.cu - one thread per triangle for the silhouette edges, one per pixel for the rest. Each pixel gathers what
// it receives, so colours do not depend on the order of threads; gradients of corners are added atomically.
#include "antialias.h"

using namespace dl;

namespace {

__device__ int64_t global_thread() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

struct Pair {
  Share share;
  int64_t first, second;
};

// The four pairs a pixel is part of: 0 right, 1 below, 2 left, 3 above. False where there is no silhouette.
__device__ bool pair_of(const AntialiasParams& p, const int32_t* pairs, int64_t k, int which, Pair& pair) {
  const int64_t row = k / p.width % p.height, column = k % p.width;
  const int axis = which & 1;
  if (which == 2 && column == 0) return false;
  if (which == 3 && row == 0) return false;
  pair.first = which < 2 ? k : k - (axis == 0 ? 1 : p.width);
  const int32_t code = pairs[2 * pair.first + axis];
  if (code == 0) return false;
  pair.second = pair.first + (axis == 0 ? 1 : p.width);
  pair.share = share_of(p, code, k / (p.height * p.width), row - (which == 3), column - (which == 2), axis);
  return true;
}

}  // namespace

extern "C" __global__ void dl_antialias_facing(AntialiasParams p, uint8_t* sides) {
  const int64_t k = global_thread();
  if (k < p.views * p.count) sides[k] = facing(p, k / p.count, k % p.count);
}

extern "C" __global__ void dl_antialias_states(AntialiasParams p, const uint8_t* sides, uint8_t* states) {
  const int64_t k = global_thread();
  if (k >= p.views * p.count) return;
  const int64_t view = k / p.count, t = k % p.count;
  uint8_t state = sides[k];
  for (int i = 0; i < 3; ++i) state |= uint8_t(is_silhouette(p, sides + view * p.count, 3 * t + i) << i);
  states[k] = state;
}

extern "C" __global__ void dl_antialias_silhouettes(
    AntialiasParams p, const int32_t* triangle, const float* depth, const uint8_t* states, int32_t* pairs) {
  const int64_t k = global_thread();
  if (k >= p.views * p.height * p.width) return;
  const int64_t view = k / (p.height * p.width), row = k / p.width % p.height, column = k % p.width;
  for (int axis = 0; axis < 2; ++axis) {
    const bool inside = axis == 0 ? column + 1 < p.width : row + 1 < p.height;
    pairs[2 * k + axis] =
        inside ? find_silhouette(p, states + view * p.count, triangle, depth, view, row, column, axis) : 0;
  }
}

extern "C" __global__ void dl_antialias_blend(AntialiasParams p, const float* color, const int32_t* pairs, float* out) {
  const int64_t k = global_thread(), n = p.channels;
  if (k >= p.views * p.height * p.width) return;
  for (int64_t c = 0; c < n; ++c) out[k * n + c] = color[k * n + c];
  for (int which = 0; which < 4; ++which) {
    Pair pair;
    if (!pair_of(p, pairs, k, which, pair) || (pair.share.to_second ? pair.second : pair.first) != k) continue;
    const int64_t front = pair.share.back ? pair.second : pair.first, behind = pair.share.back ? pair.first : pair.second;
    for (int64_t c = 0; c < n; ++c) out[k * n + c] += pair.share.amount * (color[front * n + c] - color[behind * n + c]);
  }
}

extern "C" __global__ void dl_antialias_blend_backward(AntialiasParams p, const float* color, const int32_t* pairs,
                                                       const float* grad, float* grad_color, float* grad_clip) {
  const int64_t k = global_thread(), n = p.channels;
  if (k >= p.views * p.height * p.width) return;
  for (int64_t c = 0; c < n; ++c) grad_color[k * n + c] = grad[k * n + c];
  for (int which = 0; which < 4; ++which) {
    Pair pair;
    if (!pair_of(p, pairs, k, which, pair)) continue;
    const int64_t front = pair.share.back ? pair.second : pair.first, behind = pair.share.back ? pair.first : pair.second;
    const float* g = grad + (pair.share.to_second ? pair.second : pair.first) * n;
    const float amount = front == k ? pair.share.amount : -pair.share.amount;
    float along = 0.f;
    for (int64_t c = 0; c < n; ++c) {
      grad_color[k * n + c] += amount * g[c];
      along += g[c] * (color[front * n + c] - color[behind * n + c]);
    }
    if (which >= 2) continue;  // each pair moves its corners once
    float start[4], end[4];
    share_backward(pair.share, along, start, end);
    for (int j = 0; j < 4; ++j) {
      atomicAdd(grad_clip + 4 * pair.share.start + j, start[j]);
      atomicAdd(grad_clip + 4 * pair.share.end + j, end[j]);
    }
  }
}
