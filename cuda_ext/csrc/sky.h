// SPDX-License-Identifier: Apache-2.0
// sky.h - one triangle in a height picture, one point under the sky; compiled for CPU and CUDA.
//
// A way is a frame of three rows: right, up, toward the sky. Seen along it the cube [-1, 1]^3 is a picture of P x P pixels
// that keeps the highest and the lowest place of the surface at each pixel's middle; so it serves the way and its
// opposite. A triangle has a pixel whose middle is inside, or on an edge. The specification is cuda_ext/reference/sky.py.
#pragma once
#include "common.h"

namespace dl {

constexpr float kOnEdge = 1e-4f;  // pixels beyond an edge that still count: neighbours leave no gap

struct SkyParams {
  const float* vertices;  // [V, 3]
  const int32_t* faces;   // [F, 3]
  const float* points;    // [M, 3]
  const float* normals;   // [M, 3]
  const float* ways;      // [D, 3, 3]
  int64_t vertex_count, count, point_count, way_count, pixels;
  float slack;
};

struct HeightFill {
  float x, y, z, zx, zy, z_low, z_high;  // plane about corner 0, and its bounds
  float ex[3], ey[3], e0[3];             // edge i at (px, py): e0 + ex px + ey py >= 0 inside, in pixels from it
  int32_t c0, c1, r0, r1;                // first and last column and row; empty when one is after the other
};

DL_HD Vec3<float> in_frame(const float* way, const float* p) {
  return {way[0] * p[0] + way[1] * p[1] + way[2] * p[2], way[3] * p[0] + way[4] * p[1] + way[5] * p[2],
          way[6] * p[0] + way[7] * p[1] + way[8] * p[2]};
}

DL_HD float to_column(float x, int64_t pixels) { return (x + 1.f) * (0.5f * pixels); }
DL_HD float to_row(float y, int64_t pixels) { return (1.f - y) * (0.5f * pixels); }

// Of three corners whose x and y are columns and rows already.
DL_HD HeightFill height_fill(Vec3<float> a, Vec3<float> b, Vec3<float> c, int64_t pixels) {
  HeightFill f;
  f.c0 = f.r0 = 1, f.c1 = f.r1 = 0;
  const float twice = (b.x - a.x) * (c.y - a.y) - (b.y - a.y) * (c.x - a.x);
  if (!finite_(twice) || !finite_(a.z + b.z + c.z) || twice == 0.f) return f;
  const float last = float(pixels - 1);
  const float left = min_(a.x, min_(b.x, c.x)) - 0.5f - kOnEdge, right = max_(a.x, max_(b.x, c.x)) - 0.5f + kOnEdge;
  const float top = min_(a.y, min_(b.y, c.y)) - 0.5f - kOnEdge, low = max_(a.y, max_(b.y, c.y)) - 0.5f + kOnEdge;
  f.c0 = int32_t(ceilf(min_(max_(left, 0.f), last + 1.f))), f.c1 = int32_t(floorf(max_(min_(right, last), -1.f)));
  f.r0 = int32_t(ceilf(min_(max_(top, 0.f), last + 1.f))), f.r1 = int32_t(floorf(max_(min_(low, last), -1.f)));
  if (f.c0 > f.c1 || f.r0 > f.r1) return f;
  const float side = twice < 0.f ? -1.f : 1.f;
  const Vec3<float> p[3] = {a, b, c};
  for (int i = 0; i < 3; ++i) {
    const Vec3<float>&s = p[i], &e = p[i == 2 ? 0 : i + 1];
    const float dx = e.x - s.x, dy = e.y - s.y, length = sqrtf(dx * dx + dy * dy);
    const float scale = length > 0.f ? side / length : 0.f;
    f.ex[i] = -dy * scale, f.ey[i] = dx * scale;
    f.e0[i] = kOnEdge - f.ex[i] * (s.x - a.x) - f.ey[i] * (s.y - a.y);
  }
  f.x = a.x, f.y = a.y, f.z = a.z;
  f.zx = ((b.z - a.z) * (c.y - a.y) - (c.z - a.z) * (b.y - a.y)) / twice;
  f.zy = ((c.z - a.z) * (b.x - a.x) - (b.z - a.z) * (c.x - a.x)) / twice;
  f.z_low = min_(a.z, min_(b.z, c.z)), f.z_high = max_(a.z, max_(b.z, c.z));
  return f;
}

// At pixels' middles (px, py) relative to corner 0; `inside` is a mask.
template <class T>
DL_HD auto inside_fill(const HeightFill& f, T px, float py) {
  return (f.e0[0] + f.ex[0] * px + f.ey[0] * py >= 0.f) & (f.e0[1] + f.ex[1] * px + f.ey[1] * py >= 0.f) &
         (f.e0[2] + f.ex[2] * px + f.ey[2] * py >= 0.f);
}

template <class T>
DL_HD T height_at(const HeightFill& f, T px, float py) {
  const T zero{};
  return min_(max_(f.z + f.zy * py + f.zx * px, zero + f.z_low), zero + f.z_high);
}

// Which pixel a point of the frame reads.
DL_HD int64_t pixel_of(float x, float y, int64_t pixels) {
  const float last = float(pixels - 1);
  const float column = min_(max_(to_column(x, pixels), 0.f), last), row = min_(max_(to_row(y, pixels), 0.f), last);
  return int64_t(row) * pixels + int64_t(column);
}

}  // namespace dl
