// SPDX-License-Identifier: Apache-2.0
// seen.h - one point of a surface in one picture of it; compiled for CPU and CUDA.
//
// A picture has five layers: colour, the surface's depth, and 1 where both can be trusted. It counts with cos^4 of the
// angle to the eye over the squared distance, where the point lies in front of what is seen there. The specification is
// cuda_ext/reference/seen.py.
#pragma once
#include "common.h"

namespace dl {

constexpr int kLayers = 5;
constexpr float kTrusted = 0.99f;

struct SeenParams {
  const float* points;     // [M, 3]
  const float* normals;    // [M, 3]
  const float* layers;     // [B, S, S, 5]
  const float* eyes;       // [B, 3]
  const float* to_camera;  // [B, 3, 4]
  const float* focal;      // [B] pixels
  int64_t count, views, size;
  float grazing, behind;
};

// A point from a camera: T is a number or a vector of points.
template <class T>
struct Sight {
  T cosine, away, x, y;  // to the eye; depth; column and row in pixels, the middle of the first at 0
};

template <class T>
DL_HD Sight<T> sight_of(const SeenParams& p, int64_t view, Vec3<T> at, Vec3<T> normal) {
  const float *m = p.to_camera + 12 * view, *eye = p.eyes + 3 * view, focal = p.focal[view], half = 0.5f * p.size - 0.5f;
  const T zero{};
  const T ex = eye[0] - at.x, ey = eye[1] - at.y, ez = eye[2] - at.z;
  const T length = sqrt_(ex * ex + ey * ey + ez * ez);
  Sight<T> s;
  s.cosine = (normal.x * ex + normal.y * ey + normal.z * ez) / max_(length, zero + 1e-12f);
  s.away = -(m[8] * at.x + m[9] * at.y + m[10] * at.z + m[11]);
  const T scale = focal / max_(s.away, zero + 1e-6f);
  s.x = (m[0] * at.x + m[1] * at.y + m[2] * at.z + m[3]) * scale + half;
  s.y = half - (m[4] * at.x + m[5] * at.y + m[6] * at.z + m[7]) * scale;
  return s;
}

// Adds to sum [4]: colour times weight, and weight.
DL_HD void add_sight(const SeenParams& p, int64_t view, const Sight<float>& s, float* sum) {
  const float last = float(p.size - 1);
  if (!(s.cosine > p.grazing) || !(s.x > -0.5f && s.x < last + 0.5f && s.y > -0.5f && s.y < last + 0.5f)) return;
  const float x = min_(max_(s.x, 0.f), last), y = min_(max_(s.y, 0.f), last);
  const int32_t c0 = int32_t(x), r0 = int32_t(y), c1 = c0 + 1 < p.size ? c0 + 1 : c0, r1 = r0 + 1 < p.size ? r0 + 1 : r0;
  const float fx = x - c0, fy = y - r0;
  const float* picture = p.layers + view * p.size * p.size * kLayers;
  const float *a = picture + (r0 * p.size + c0) * kLayers, *b = picture + (r0 * p.size + c1) * kLayers;
  const float *c = picture + (r1 * p.size + c0) * kLayers, *d = picture + (r1 * p.size + c1) * kLayers;
  float read[kLayers];
  for (int k = 0; k < kLayers; ++k) {
    const float upper = a[k] + fx * (b[k] - a[k]), lower = c[k] + fx * (d[k] - c[k]);
    read[k] = upper + fy * (lower - upper);
  }
  if (!(read[4] > kTrusted) || s.away > read[3] + p.behind * s.away / p.focal[view] / s.cosine) return;
  const float square = s.cosine * s.cosine, weight = square * square / (s.away * s.away);
  for (int k = 0; k < 3; ++k) sum[k] += weight * read[k];
  sum[3] += weight;
}

}  // namespace dl
