// SPDX-License-Identifier: Apache-2.0
// seen_cpu.cpp - blocks of points over threads, view after view so that a picture stays in a cache; sixteen points are
// projected at once, and those that face the eye are looked up one by one.
#include "seen.h"

using namespace dl;

namespace {

constexpr int64_t kBlock = 2048;  // points

}  // namespace

// out [M, 4]: sums of colour times weight, and of weights.
DL_API int dl_seen(const dl::SeenParams* params, float* out, int threads) {
  const SeenParams p = *params;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t block = 0; block < (p.count + kBlock - 1) / kBlock; ++block) {
    alignas(64) float rows[6][kBlock];
    const int64_t first = block * kBlock, many = p.count - first < kBlock ? p.count - first : kBlock;
    for (int64_t i = 0; i < kBlock; ++i)
      for (int k = 0; k < 3; ++k) {
        rows[k][i] = i < many ? p.points[3 * (first + i) + k] : 0.f;
        rows[3 + k][i] = i < many ? p.normals[3 * (first + i) + k] : 0.f;  // faces no eye
      }
    float* sums = out + 4 * first;
    memset(sums, 0, size_t(4 * many) * sizeof(float));
    for (int64_t view = 0; view < p.views; ++view)
      for (int64_t i = 0; i < many; i += kLanes) {
        const Vec3<Vf> at = {load(rows[0] + i), load(rows[1] + i), load(rows[2] + i)};
        const Vec3<Vf> normal = {load(rows[3] + i), load(rows[4] + i), load(rows[5] + i)};
        const Sight<Vf> s = sight_of(p, view, at, normal);
        uint32_t faces = mask_bits(s.cosine > p.grazing);
        if (!faces) continue;
        alignas(64) float each[4][kLanes];
        store(each[0], s.cosine), store(each[1], s.away), store(each[2], s.x), store(each[3], s.y);
        for (int j = 0; j < kLanes && i + j < many; ++j)
          if (faces >> j & 1) add_sight(p, view, {each[0][j], each[1][j], each[2][j], each[3][j]}, sums + 4 * (i + j));
      }
  }
  return 0;
}
