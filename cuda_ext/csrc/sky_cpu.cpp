// SPDX-License-Identifier: Apache-2.0
// sky_cpu.cpp - groups of ways over threads; a group draws its pictures one after another in a buffer that stays in a
// cache, and asks all points of each. Groups add up in their order, so any thread count gives the same bits.
#include <memory>
#include <new>

#include "sky.h"

using namespace dl;

namespace {

constexpr int64_t kGroups = 8;
constexpr float kNothing = 4.f;  // beyond the cube

struct Buffers {
  std::unique_ptr<float[]> high, low, corners;
};

void draw(const SkyParams& p, const float* way, int64_t wide, Buffers& b) {
  float *high = b.high.get(), *low = b.low.get(), *corners = b.corners.get();
  for (int64_t k = 0; k < p.pixels * wide; ++k) high[k] = -kNothing, low[k] = kNothing;
  for (int64_t v = 0; v < p.vertex_count; ++v) {
    const Vec3<float> at = in_frame(way, p.vertices + 3 * v);
    corners[3 * v] = to_column(at.x, p.pixels), corners[3 * v + 1] = to_row(at.y, p.pixels), corners[3 * v + 2] = at.z;
  }
  const Vi lane = lane_index();
  for (int64_t t = 0; t < p.count; ++t) {
    Vec3<float> c[3];
    for (int i = 0; i < 3; ++i) memcpy(&c[i], corners + 3 * int64_t(p.faces[3 * t + i]), sizeof c[i]);
    const HeightFill f = height_fill(c[0], c[1], c[2], p.pixels);
    for (int32_t row = f.r0; row <= f.r1; ++row) {
      const float py = float(row) + 0.5f - f.y;
      for (int32_t column = f.c0; column <= f.c1; column += kLanes) {
        const Vf px = to_float(lane + column) + (0.5f - f.x);
        const Vi inside = inside_fill(f, px, py) & (lane <= f.c1 - column);
        const Vf z = height_at(f, px, py);
        float *top = high + row * wide + column, *bottom = low + row * wide + column;
        store(top, select(inside, max_(z, load(top)), load(top)));
        store(bottom, select(inside, min_(z, load(bottom)), load(bottom)));
      }
    }
  }
}

void ask(const SkyParams& p, const float* way, int64_t wide, const Buffers& b, float* open, float* whole) {
  const float *high = b.high.get(), *low = b.low.get();
  for (int64_t m = 0; m < p.point_count; ++m) {
    const float* n = p.normals + 3 * m;
    const Vec3<float> at = in_frame(way, p.points + 3 * m);
    const float cosine = way[6] * n[0] + way[7] * n[1] + way[8] * n[2];
    const int64_t pixel = pixel_of(at.x, at.y, p.pixels), there = pixel + pixel / p.pixels * (wide - p.pixels);
    const bool clear = cosine > 0.f ? at.z > high[there] - p.slack : at.z < low[there] + p.slack;
    open[m] += clear ? abs_(cosine) : 0.f;
    whole[m] += abs_(cosine);
  }
}

}  // namespace

// out [M]. Returns 0, or 1 when memory ran out.
DL_API int dl_sky(const dl::SkyParams* params, float* out, int threads) {
  const SkyParams p = *params;
  const int64_t wide = p.pixels + kLanes, m = p.point_count;
  std::unique_ptr<float[]> sums(new (std::nothrow) float[2 * kGroups * m + 1]);
  if (!sums) return 1;
  bool short_of_memory = false;
#pragma omp parallel num_threads(threads)
  {
    Buffers b;
    b.high.reset(new (std::nothrow) float[p.pixels * wide]), b.low.reset(new (std::nothrow) float[p.pixels * wide]);
    b.corners.reset(new (std::nothrow) float[3 * p.vertex_count + 1]);
    const bool sound = b.high && b.low && b.corners;
    if (!sound) short_of_memory = true;
#pragma omp for schedule(dynamic, 1)
    for (int64_t group = 0; group < kGroups; ++group) {
      if (!sound) continue;
      float *open = sums.get() + 2 * group * m, *whole = open + m;
      memset(open, 0, size_t(2 * m) * sizeof(float));
      for (int64_t way = group * p.way_count / kGroups; way < (group + 1) * p.way_count / kGroups; ++way) {
        draw(p, p.ways + 9 * way, wide, b);
        ask(p, p.ways + 9 * way, wide, b, open, whole);
      }
    }
#pragma omp for schedule(static)
    for (int64_t k = 0; k < m; ++k) {
      float open = 0.f, whole = 0.f;
      for (int64_t group = 0; group < kGroups; ++group)
        open += sums[2 * group * m + k], whole += sums[(2 * group + 1) * m + k];
      out[k] = open / max_(whole, 1e-6f);
    }
  }
  return short_of_memory ? 1 : 0;
}
