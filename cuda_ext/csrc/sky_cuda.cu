// SPDX-License-Identifier: Apache-2.0
// sky_cuda.cu - a thread per triangle of a way, then a thread per point. Heights are kept as whole numbers of the same
// order, of which the smallest wins whoever comes first; the highest by their negatives.
#include "sky.h"

using namespace dl;

namespace dl {

__device__ inline int32_t ordered(float x) {
  const int32_t i = __float_as_int(x);
  return i >= 0 ? i : i ^ 0x7fffffff;
}
__device__ inline float unordered(int32_t i) { return __int_as_float(i >= 0 ? i : i ^ 0x7fffffff); }

}  // namespace dl

// high and low [D, P, P], the ordered numbers of heights' negatives and of heights, large before.
extern "C" __global__ void dl_sky_heights(SkyParams p, int32_t* high, int32_t* low) {
  const int64_t item = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (item >= p.way_count * p.count) return;
  const int64_t way = item / p.count, t = item % p.count;
  Vec3<float> c[3];
  for (int i = 0; i < 3; ++i) {
    const int32_t v = p.faces[3 * t + i];
    if (v < 0 || v >= p.vertex_count) return;
    c[i] = in_frame(p.ways + 9 * way, p.vertices + 3 * int64_t(v));
    c[i].x = to_column(c[i].x, p.pixels), c[i].y = to_row(c[i].y, p.pixels);
  }
  const HeightFill f = height_fill(c[0], c[1], c[2], p.pixels);
  for (int32_t row = f.r0; row <= f.r1; ++row)
    for (int32_t column = f.c0; column <= f.c1; ++column) {
      const float px = float(column) + 0.5f - f.x, py = float(row) + 0.5f - f.y;
      if (!inside_fill(f, px, py)) continue;
      const float z = height_at(f, px, py);
      const int64_t at = (way * p.pixels + row) * p.pixels + column;
      atomicMin(high + at, ordered(-z)), atomicMin(low + at, ordered(z));
    }
}

// out [M].
extern "C" __global__ void dl_sky(SkyParams p, const int32_t* high, const int32_t* low, float* out) {
  const int64_t m = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (m >= p.point_count) return;
  const float* n = p.normals + 3 * m;
  float open = 0.f, whole = 0.f;
  for (int64_t k = 0; k < p.way_count; ++k) {
    const float* way = p.ways + 9 * k;
    const Vec3<float> at = in_frame(way, p.points + 3 * m);
    const float cosine = way[6] * n[0] + way[7] * n[1] + way[8] * n[2];
    const int64_t there = k * p.pixels * p.pixels + pixel_of(at.x, at.y, p.pixels);
    const bool clear = cosine > 0.f ? at.z > -unordered(high[there]) - p.slack : at.z < unordered(low[there]) + p.slack;
    open += clear ? abs_(cosine) : 0.f;
    whole += abs_(cosine);
  }
  out[m] = open / max_(whole, 1e-6f);
}
