// SPDX-License-Identifier: Apache-2.0
// density_cpu.cpp - planes of the grid over threads. A plane has the list of Gaussians that reach it, ordered by where
// they begin along x and y, so that those after one another touch the same lines; any thread count gives the same bits.
// It is summed in a buffer whose lines have room for whole vectors.
#include <memory>
#include <new>
#include <vector>

#include "density.h"

using namespace dl;

namespace {

constexpr int kChannels = 4;

// The lines of one Gaussian in one plane, [4, Y, wide].
void add_plane(const Gaussian& g, int32_t x, float* sums, int64_t plane, int64_t wide) {
  const Vi lane = lane_index();
  for (int32_t y0 = g.low[1]; y0 <= g.high[1]; y0 += kLanes) {
    const DensityLines<Vf> lines = density_lines(g, float(x) - g.place[0], to_float(lane + y0) - g.place[1]);
    alignas(64) float p[3][kLanes], first[kLanes], last[kLanes];
    for (int k = 0; k < 3; ++k) store(p[k], lines.p[k]);
    store(first, lines.first), store(last, lines.last);
    const int count = g.high[1] - y0 + 1 < kLanes ? g.high[1] - y0 + 1 : kLanes;
    for (int j = 0; j < count; ++j) {
      if (!(first[j] <= last[j])) continue;
      const int32_t end = int32_t(last[j]);
      const float along[3] = {p[0][j], p[1][j], p[2][j]};
      float* to = sums + (y0 + j) * wide;
      for (int32_t z = int32_t(ceilf(first[j])); z <= end; z += kLanes) {
        Vf value = density_at(g, along, to_float(lane + z) - g.place[2]);
        value = select(lane <= end - z, value, splat_f(0.f));
        for (int c = 0; c < kChannels; ++c) store(to + c * plane + z, load(to + c * plane + z) + g.weight[c] * value);
      }
    }
  }
}

// By where they begin along an axis; of equal ones the order stays.
void order_by(int axis, int64_t size, const std::vector<Gaussian>& from, std::vector<Gaussian>& to) {
  std::vector<int64_t> rank(size + 2, 0);
  for (const Gaussian& g : from) ++rank[g.low[axis] + 1];
  for (int64_t k = 1; k < size + 2; ++k) rank[k] += rank[k - 1];
  for (const Gaussian& g : from) to[rank[g.low[axis]]++] = g;
}

}  // namespace

// out [4, X, Y, Z]. Returns 0, or 1 when memory ran out.
DL_API int dl_density(const dl::DensityParams* params, float* out, int threads) {
  const DensityParams p = *params;
  const int64_t wide = p.z + kLanes, plane = p.y * wide;
  bool short_of_memory = false;
  try {
    std::vector<Gaussian> all(p.count), spare(p.count);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < p.count; ++i) all[i] = gaussian_at(p, i);
    order_by(1, p.y, all, spare);
    order_by(0, p.x, spare, all);
    std::vector<int64_t> start(p.x + 2, 0);
    for (const Gaussian& g : all)
      if (g.low[0] <= g.high[0]) ++start[g.low[0] + 1], --start[g.high[0] + 2];
    for (int turn = 0; turn < 2; ++turn)  // how many begin or end at a plane, how many reach it, how many come before
      for (int64_t x = 1; x < p.x + 2; ++x) start[x] += start[x - 1];
    std::unique_ptr<int32_t[]> lists(new int32_t[start[p.x] + 1]);
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t i = 0; i < p.count; ++i)
      for (int32_t x = all[i].low[0]; x <= all[i].high[0]; ++x) lists[next[x]++] = int32_t(i);
#pragma omp parallel num_threads(threads)
    {
      std::unique_ptr<float[]> sums(new (std::nothrow) float[kChannels * plane]);
      if (!sums) short_of_memory = true;
#pragma omp for schedule(dynamic, 1)
      for (int64_t x = 0; x < p.x; ++x) {
        if (!sums) continue;
        memset(sums.get(), 0, size_t(kChannels * plane) * sizeof(float));
        for (int64_t k = start[x]; k < start[x + 1]; ++k)
          add_plane(all[lists[k]], int32_t(x), sums.get(), plane, wide);
        for (int c = 0; c < kChannels; ++c)
          for (int64_t y = 0; y < p.y; ++y)
            memcpy(out + ((c * p.x + x) * p.y + y) * p.z, sums.get() + c * plane + y * wide, size_t(p.z) * sizeof(float));
      }
    }
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return short_of_memory ? 1 : 0;
}
