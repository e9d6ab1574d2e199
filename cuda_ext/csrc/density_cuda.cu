// SPDX-License-Identifier: Apache-2.0
// density_cuda.cu - a block per Gaussian, a thread per line of its box; cells are added to atomically.
#include "density.h"

using namespace dl;

// out [4, X, Y, Z] is zero before.
extern "C" __global__ void __launch_bounds__(128) dl_density(DensityParams p, float* out) {
  const int64_t i = blockIdx.x;
  if (i >= p.count) return;
  const Gaussian g = gaussian_at(p, i);
  const int32_t across = g.high[1] - g.low[1] + 1, lines = g.low[0] > g.high[0] || across < 1 ? 0 : (g.high[0] - g.low[0] + 1) * across;
  for (int32_t k = threadIdx.x; k < lines; k += blockDim.x) {
    const int32_t x = g.low[0] + k / across, y = g.low[1] + k % across;
    const DensityLines<float> line = density_lines(g, float(x) - g.place[0], float(y) - g.place[1]);
    if (!(line.first <= line.last)) continue;
    for (int32_t z = int32_t(ceilf(line.first)); z <= int32_t(line.last); ++z) {
      const float value = density_at(g, line.p, float(z) - g.place[2]);
      if (value > 0.f)
        for (int c = 0; c < 4; ++c) atomicAdd(out + ((c * p.x + x) * p.y + y) * p.z + z, g.weight[c] * value);
    }
  }
}
