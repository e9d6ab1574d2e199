// SPDX-License-Identifier: Apache-2.0
// adam_cpu.cpp - one parallel region over rows. A row is updated from itself alone: any thread count gives the same bits.
#include "adam.h"

namespace {

using namespace dl;

// Up to 16 numbers; the tail of a range goes through a padded copy, so that all numbers take the same operations.
void update_range(float* x, const float* g, float* m, float* v, int64_t count, const AdamParams& p, const AdamScale& s) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Vf vx = load(x + i), vm = load(m + i), vv = load(v + i);
    adam_update(vx, load(g + i), vm, vv, p, s);
    store(x + i, vx), store(m + i, vm), store(v + i, vv);
  }
  if (i == count) return;
  const size_t bytes = size_t(count - i) * sizeof(float);
  float block[4][kLanes] = {};
  memcpy(block[0], x + i, bytes), memcpy(block[1], g + i, bytes);
  memcpy(block[2], m + i, bytes), memcpy(block[3], v + i, bytes);
  Vf vx = load(block[0]), vm = load(block[2]), vv = load(block[3]);
  adam_update(vx, load(block[1]), vm, vv, p, s);
  store(block[0], vx), store(block[2], vm), store(block[3], vv);
  memcpy(x + i, block[0], bytes), memcpy(m + i, block[2], bytes), memcpy(v + i, block[3], bytes);
}

}  // namespace

DL_API void dl_adam(float* x, const float* g, float* m, float* v, const dl::AdamParams* params, int threads) {
  const AdamParams p = *params;
  if (p.skip && *p.skip) return;
  const double t = double(*p.step) + 1.0;
  const AdamScale s = {float(p.lr / (1.0 - std::pow(double(p.beta1), t))),
                       float(1.0 / std::sqrt(1.0 - std::pow(double(p.beta2), t)))};
  constexpr int64_t kRows = 4096;
  const int64_t chunks = (p.rows + kRows - 1) / kRows;
#pragma omp parallel for num_threads(threads) schedule(static) if (p.rows * p.columns > 16384)
  for (int64_t chunk = 0; chunk < chunks; chunk++) {
    const int64_t end = p.rows < (chunk + 1) * kRows ? p.rows : (chunk + 1) * kRows;
    for (int64_t row = chunk * kRows; row < end;) {
      if (p.visible && !p.visible[row]) {
        row++;
        continue;
      }
      int64_t last = row + 1;  // neighbours that are visible too are one range
      while (last < end && (!p.visible || p.visible[last])) last++;
      const int64_t at = row * p.columns;
      update_range(x + at, g + at, m + at, v + at, (last - row) * p.columns, p, s);
      row = last;
    }
  }
}
