// SPDX-License-Identifier: Apache-2.0
// seen_cuda.cu - one thread per point, view after view.
#include "seen.h"

using namespace dl;

extern "C" __global__ void dl_seen(SeenParams p, float* out) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.count) return;
  const Vec3<float> at = {p.points[3 * i], p.points[3 * i + 1], p.points[3 * i + 2]};
  const Vec3<float> normal = {p.normals[3 * i], p.normals[3 * i + 1], p.normals[3 * i + 2]};
  float sum[4] = {0.f, 0.f, 0.f, 0.f};
  for (int64_t view = 0; view < p.views; ++view) add_sight(p, view, sight_of(p, view, at, normal), sum);
  for (int k = 0; k < 4; ++k) out[4 * i + k] = sum[k];
}
