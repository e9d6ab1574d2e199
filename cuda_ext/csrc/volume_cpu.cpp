// SPDX-License-Identifier: Apache-2.0
// volume_cpu.cpp - rays over threads forward, grids over threads backward (a grid's gradient is summed by one thread in
// the order of its rays, so any thread count gives the same bits); the prior's channel count is compiled out.
#include "channels.h"
#include "volume.h"

#include <cstring>

using namespace dl;

namespace {

constexpr int kTail = 4;  // numbers of a cell of twenty beside its first vector
constexpr int64_t kTwenty = kLanes + kTail;
typedef float Vt __attribute__((vector_size(16)));

// A cell of the prior's grid: twenty numbers.
struct Cell {
  Vf head;
  Vt tail;
};

inline Cell cell_at(const float* from) {
  Cell cell{load(from), {}};
  memcpy(&cell.tail, from + kLanes, sizeof cell.tail);
  return cell;
}

// What is found at up to sixteen samples of a ray, and what their densities do to it; as volume_ray has it, lane by lane.
struct Stretch {
  Around around[kLanes];
  Cell found[kLanes];
  float t[kLanes], density[kLanes] = {}, clear[kLanes];  // clear: the share of light that a sample lets through

  void look(const VolumeParams& p, const float* grid, const float* near, const float* direction, int first, int count) {
    for (int k = 0; k < count; ++k) {
      t[k] = sample_at(p, first + k);
      around[k] = dl::around(p, near, direction, t[k]);
      found[k] = Cell{};
      if (!around[k].inside) continue;
      for (int i = 0; i < 8; ++i) {
        const Cell cell = cell_at(grid + around[k].at[i]);
        found[k].head += around[k].weight[i] * cell.head;
        found[k].tail += around[k].weight[i] * cell.tail;
      }
      density[k] = found[k].head[0];
    }
    const Vf x = load(density) - p.shift;
    const Vf soft = max_(x, Vf{}) + 0.69314718f * log2_(1.f + exp2_(-1.44269504f * abs_(x)));
    store(clear, exp2_(max_(-1.44269504f * p.gain * soft, splat_f(-126.f))));
  }
};

// volume_ray for twenty channels.
void ray_of_twenty(const VolumeParams& p, int64_t ray, float* out) {
  const int64_t start = grid_start(p, ray);
  Cell sum{};
  float left = 1.f, before = 0.f;  // light
  for (int first = 0; start >= 0 && first < p.samples; first += kLanes) {
    const int count = p.samples - first < kLanes ? p.samples - first : kLanes;
    Stretch here;
    here.look(p, p.grid + start, p.near + 3 * ray, p.direction + 3 * ray, first, count);
    for (int k = 0; k < count; ++k) {
      if (!here.around[k].inside) continue;
      const float ends = left - left * here.clear[k];
      left *= here.clear[k];
      sum.head += ends * here.found[k].head;
      sum.tail += ends * here.found[k].tail;
      before -= ends * here.t[k];
    }
  }
  float numbers[kTwenty];
  store(numbers, sum.head);
  memcpy(numbers + kLanes, &sum.tail, sizeof sum.tail);
  memcpy(out, numbers + 1, (kTwenty - 1) * sizeof(float));
  out[kTwenty - 1] = 1.f - left;
  out[kTwenty] = before;
}

// volume_ray_backward for twenty channels, into `target`.
void backward_of_twenty(const VolumeParams& p, int64_t ray, const float* grad, float* target) {
  const int64_t start = grid_start(p, ray);
  if (start < 0) return;
  Stretch all[kMaxSamples / kLanes];
  float gain[kMaxSamples], slope[kMaxSamples], clear[kMaxSamples + 1] = {1.f};
  float numbers[kTwenty] = {};
  memcpy(numbers + 1, grad, (kTwenty - 1) * sizeof(float));
  const Cell given = cell_at(numbers);
  for (int first = 0; first < p.samples; first += kLanes) {
    const int count = p.samples - first < kLanes ? p.samples - first : kLanes;
    Stretch& here = all[first / kLanes];
    here.look(p, p.grid + start, p.near + 3 * ray, p.direction + 3 * ray, first, count);
    const Vf x = load(here.density) - p.shift;
    store(slope + first, p.gain / (1.f + exp2_(min_(-1.44269504f * x, splat_f(126.f)))));
    for (int k = 0; k < count; ++k) {
      const bool inside = here.around[k].inside;
      const Vt tail = given.tail * here.found[k].tail;
      clear[first + k + 1] = clear[first + k] * (inside ? here.clear[k] : 1.f);
      gain[first + k] = grad[kTwenty - 1] - grad[kTwenty] * here.t[k] + sum(given.head * here.found[k].head) +
                        (tail[0] + tail[1]) + (tail[2] + tail[3]);
    }
  }
  float later = 0.f;  // sum of gain x ends behind k
  for (int k = p.samples - 1; k >= 0; --k) {
    const Around& around = all[k / kLanes].around[k % kLanes];
    const float ends = clear[k] - clear[k + 1];
    Cell each{ends * given.head, ends * given.tail};
    each.head[0] = slope[k] * (gain[k] * clear[k + 1] - later);
    for (int i = 0; around.inside && i < 8; ++i) {
      if (around.weight[i] == 0.f) continue;
      float* to = target + around.at[i];
      const Cell sum = cell_at(to);
      store(to, sum.head + around.weight[i] * each.head);
      const Vt tail = sum.tail + around.weight[i] * each.tail;
      memcpy(to + kLanes, &tail, sizeof tail);
    }
    later += gain[k] * ends;
  }
}

}  // namespace

// out [B, N, C + 1].
DL_API int dl_volume(const dl::VolumeParams* params, float* out, int threads) {
  const VolumeParams p = *params;
  with_channels<20>(p.channels, [&](auto known) {
    const int64_t channels = known.of(p);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
    for (int64_t ray = 0; ray < p.views * p.rays; ++ray) {
      if constexpr (known.value == kTwenty) ray_of_twenty(p, ray, out + ray * (channels + 1));
      else volume_ray(p, ray, channels, out + ray * (channels + 1));
    }
  });
  return 0;
}

// grad [B, N, C + 1] to grad_grid [G, D, H, W, C].
DL_API int dl_volume_backward(const dl::VolumeParams* params, const float* grad, float* grad_grid, int threads) {
  const VolumeParams p = *params;
  with_channels<20>(p.channels, [&](auto known) {
    const int64_t channels = known.of(p), size = p.depth * p.height * p.width * channels;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t set = 0; set < p.grids; ++set) {
      float* target = grad_grid + set * size;
      memset(target, 0, size * sizeof(float));
      for (int64_t view = 0; view < p.views; ++view) {
        if (p.row[view] != set) continue;
        for (int64_t ray = view * p.rays; ray < (view + 1) * p.rays; ++ray) {
          const float* given = grad + ray * (channels + 1);
          if constexpr (known.value == kTwenty) {
            backward_of_twenty(p, ray, given, target);
            continue;
          }
          volume_ray_backward(p, ray, channels, given, [&](int64_t cell, float weight, float ends, float slope) {
            float* to = target + cell;
            to[0] += weight * slope;
            const float share = weight * ends;
            for (int64_t c = 1; c < channels; ++c) to[c] += share * given[c - 1];
          });
        }
      }
    }
  });
  return 0;
}
