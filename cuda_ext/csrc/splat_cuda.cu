// SPDX-License-Identifier: Apache-2.0
// splat_cuda.cu - CUDA kernels of `splat`; compiled by NVRTC at first use, launched from cuda_ext/splat_cuda.py.
//
//   dl_splat_project          one thread per (view, splat)
//   dl_splat_emit             the same: keys (tile, depth) of its pairs; torch.sort orders them, stably
//   dl_splat_ranges           one thread per sorted pair: tile starts, pairs, slots
//   dl_splat_forward          one block of 16 x 16 threads per tile, records through shared memory
//   dl_splat_backward         the same, from the back; sums over a tile go warp by warp in a fixed order into one row
//                             per pair, so that no atomics are needed and the bits are the same in every run
//   dl_splat_gather           one thread per splat: sums its rows view by view and goes back through the projection
#include "splat.h"

namespace dl {

constexpr int kPixels = kTile * kTile, kWarp = 32, kWarps = kPixels / kWarp;
constexpr int kForwardBatch = kPixels, kBackwardBatch = 32;

__device__ inline bool sane(const float* x, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (!(fabsf(x[i]) < kLargest)) return false;
  return true;
}

__device__ inline SplatInput<float> input_of(const SplatParams& p, int64_t n) {
  const float *m = p.means + 3 * n, *q = p.quats + 4 * n, *s = p.scales + 3 * n;
  return {{m[0], m[1], m[2]}, {q[0], q[1], q[2], q[3]}, {s[0], s[1], s[2]}, p.opacities[n]};
}

__device__ inline void colour_of(const SplatParams& p, const SplatView& view, int64_t n, Vec3<float> mean, float* rgb) {
  if (p.colors) {
    for (int i = 0; i < 3; i++) rgb[i] = p.colors[3 * n + i];
    return;
  }
  float distance, basis[kMaxHarmonics];
  sh_basis(view_direction(mean, view, distance), p.sh_count, basis);
  for (int i = 0; i < 3; i++) rgb[i] = 0.5f;
#pragma unroll
  for (int k = 0; k < kMaxHarmonics; k++)
    for (int i = 0; k < p.sh_count && i < 3; i++) rgb[i] += basis[k] * p.sh[(n * p.sh_count + k) * 3 + i];
  for (int i = 0; i < 3; i++) rgb[i] = max_(rgb[i], 0.f);
}

// Tiles that hold a pixel centre of [low, high], as a half-open range.
__device__ inline bool tile_range(float low, float high, int pixels, uint16_t& first, uint16_t& last) {
  constexpr float kMargin = 1e-3f;
  const float a = max_(ceilf(low - 0.5f - kMargin), 0.f), b = min_(floorf(high - 0.5f + kMargin), pixels - 1.f);
  if (a > b) return false;
  first = uint16_t(int(a) / kTile);
  last = uint16_t(int(b) / kTile + 1);
  return true;
}

__device__ inline int tiles_of(const uint16_t* rect) { return (rect[2] - rect[0]) * (rect[3] - rect[1]); }

__device__ inline int tiles_per_view(const SplatParams& p) {
  return ((p.width + kTile - 1) / kTile) * ((p.height + kTile - 1) / kTile);
}

// Sum over a warp, on every lane.
__device__ inline float warp_sum(float x) {
  for (int step = kWarp / 2; step; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

__device__ inline int warp_max(int x) {
  for (int step = kWarp / 2; step; step /= 2) {
    const int other = __shfl_xor_sync(0xffffffffu, x, step);
    x = other > x ? other : x;
  }
  return x;
}

// A tile's pairs and this thread's pixel.
struct Place {
  int view, x, y;
  int begin, end;
  int64_t pixel;       // -1: outside the picture
};

__device__ inline Place place_of(const SplatParams& p) {
  const int across = (p.width + kTile - 1) / kTile, tiles = tiles_per_view(p), tile = int(blockIdx.x);
  Place at;
  at.view = tile / tiles;
  at.x = tile % tiles % across * kTile + int(threadIdx.x) % kTile;
  at.y = tile % tiles / across * kTile + int(threadIdx.x) / kTile;
  at.begin = p.starts[tile];
  at.end = p.starts[tile + 1];
  at.pixel = at.x < p.width && at.y < p.height ? (int64_t(at.view) * p.height + at.y) * p.width + at.x : -1;
  return at;
}

// Copies the record of pair `at`; for further groups of channels those replace the features.
__device__ inline void load_record(const SplatParams& p, int view, int at, int group, float* to) {
  const int64_t id = p.pairs[at];
  const float4* from = reinterpret_cast<const float4*>(p.records + int64_t(view) * p.count + id);
  for (int i = 0; i < 4; i++) reinterpret_cast<float4*>(to)[i] = from[i];
  for (int f = 0; group > 0 && f < 7; f++) {
    const int channel = 7 * (group - 1) + f;
    to[6 + f] = channel < p.extra_count ? p.extra[id * p.extra_count + channel] : 0.f;
  }
}

}  // namespace dl

using namespace dl;

// `offsets` receives the number of pairs of each splat.
extern "C" __global__ void __launch_bounds__(128) dl_splat_project(const SplatParams p) {
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= p.count * p.views) return;
  const int b = int(at / p.count);
  const int64_t n = at % p.count;
  const SplatView view = view_of(p, b);
  const SplatInput<float> in = input_of(p, n);
  const Projection<float> s = project(in, view, p.options);
  const float level = log2_(s.opacity);
  float ex, ey, radius, index, sign;
  bool keep = visible(s, (2.f / kLog2e) * (level - kLog2MinAlpha), view, p.options, ex, ey, radius);
  keep = keep && sane(p.means + 3 * n, 3) && sane(p.quats + 4 * n, 4);
  keep = keep && sane(p.scales + 3 * n, 3) && sane(p.opacities + n, 1);
  keep = keep && (p.colors ? sane(p.colors + 3 * n, 3) : sane(p.sh + n * p.sh_count * 3, p.sh_count * 3));
  keep = keep && sane(p.extra + n * p.extra_count, p.extra_count);
  const Vec3<float> normal = facing_normal(in, s, view, index, sign);
  SplatRecord r;
  r.u = s.u, r.v = s.v, r.top = level;
  r.a = 0.5f * kLog2e * s.qa, r.b = kLog2e * s.qb, r.c = 0.5f * kLog2e * s.qc;
  colour_of(p, view, n, in.mean, r.feature);
  r.feature[3] = s.at.z, r.feature[4] = normal.x, r.feature[5] = normal.y, r.feature[6] = normal.z;
  r.slope_x = -0.5f * r.b / r.a, r.slope_y = -0.5f * r.b / r.c;
  r.radius = keep ? radius : 0.f;
  p.records[at] = r;
  p.radii[at] = r.radius;
  uint16_t rect[4] = {0, 0, 0, 0};
  const bool touches = keep && tile_range(s.u - ex, s.u + ex, p.width, rect[0], rect[2]) &&
                       tile_range(s.v - ey, s.v + ey, p.height, rect[1], rect[3]);
  for (int i = 0; i < 4; i++) p.rects[4 * at + i] = touches ? rect[i] : uint16_t(0);
  p.offsets[at] = touches ? tiles_of(rect) : 0;
}

// keys[slot] = tile << 32 | depth; slots past p.pair_count are dropped.
extern "C" __global__ void __launch_bounds__(128) dl_splat_emit(const SplatParams p, int64_t* keys) {
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= p.count * p.views) return;
  const uint16_t* r = p.rects + 4 * at;
  const int across = (p.width + kTile - 1) / kTile;
  const int64_t first = at / p.count * tiles_per_view(p), depth = __float_as_int(p.records[at].feature[3]);
  int64_t slot = p.offsets[at];
  for (int y = r[1]; y < r[3]; y++)
    for (int x = r[0]; x < r[2] && slot < p.pair_count; x++) keys[slot++] = (first + y * across + x) << 32 | depth;
}

// `keys` sorted, `order` where each was, `owner` the (view, splat) of each unsorted slot. Keys of unused slots are larger
// than any tile.
extern "C" __global__ void __launch_bounds__(256)
    dl_splat_ranges(const SplatParams p, const int64_t* keys, const int64_t* order, const int32_t* owner) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.pair_count) return;
  const int64_t tiles = int64_t(tiles_per_view(p)) * p.views, tile = keys[i] >> 32 < tiles ? keys[i] >> 32 : tiles;
  const int64_t before = i > 0 ? (keys[i - 1] >> 32 < tiles ? keys[i - 1] >> 32 : tiles) : -1;
  for (int64_t t = before + 1; t <= tile; t++) p.starts[t] = int32_t(i);
  if (i == p.pair_count - 1)
    for (int64_t t = tile + 1; t <= tiles; t++) p.starts[t] = int32_t(p.pair_count);
  if (tile == tiles) return;
  p.pairs[i] = int32_t(owner[order[i]] % p.count);
  if (p.slots) p.slots[order[i]] = int32_t(i);
}

extern "C" __global__ void __launch_bounds__(256) dl_splat_forward(const SplatParams p, int group) {
  __shared__ __align__(16) float record[kForwardBatch][16];
  const Place at = place_of(p);
  float through = 1.f, sum[7] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
  int last = -1;
  const float px = at.x + 0.5f, py = at.y + 0.5f;
  for (int first = at.begin; first < at.end; first += kForwardBatch) {
    const bool done = at.pixel < 0 || through < kMinTransmittance;
    if (__syncthreads_and(done)) break;
    const int mine = first + int(threadIdx.x);
    if (mine < at.end) load_record(p, at.view, mine, group, record[threadIdx.x]);
    __syncthreads();
    const int count = at.end - first < kForwardBatch ? at.end - first : kForwardBatch;
    for (int k = 0; k < count && through >= kMinTransmittance; k++) {
      const float* r = record[k];
      const float e = log2_alpha(r, px - r[0], py - r[1]);
      if (e < kLog2MinAlpha) continue;
      const float weight = min_(exp2_(e), kMaxAlpha) * through;
      through -= weight;
      for (int f = 0; f < 7; f++) sum[f] += weight * r[6 + f];
      last = first - at.begin + k;
    }
  }
  if (at.pixel < 0) return;
  if (group > 0) {
    for (int f = 0, channel = 7 * (group - 1); f < 7 && channel < p.extra_count; f++, channel++)
      p.extra_image[at.pixel * p.extra_count + channel] = sum[f];
    return;
  }
  const float alpha = 1.f - through;
  for (int i = 0; i < 3; i++) {
    p.rgb[3 * at.pixel + i] = sum[i] + (p.background ? through * p.background[3 * at.view + i] : 0.f);
    p.normal[3 * at.pixel + i] = sum[4 + i];
  }
  p.alpha[at.pixel] = alpha;
  p.depth[at.pixel] = alpha > 0.f ? sum[3] / alpha : 0.f;
  if (!p.last) return;
  p.through[at.pixel] = through;
  p.last[at.pixel] = last;
}

// Reads the pixel's gradients; returns what multiplies the transmittance left, i.e. `behind` at the last splat.
__device__ inline float read_gradients(const SplatParams& p, const Place& at, int group, float through, float* g) {
  if (group > 0) {
    for (int f = 0; f < 7; f++) {
      const int channel = 7 * (group - 1) + f;
      g[f] = channel < p.extra_count ? p.g_extra[at.pixel * p.extra_count + channel] : 0.f;
    }
    return 0.f;
  }
  float g_alpha = p.g_alpha ? p.g_alpha[at.pixel] : 0.f, g_through = 0.f;
  const float alpha = 1.f - through;
  for (int i = 0; i < 3; i++) {
    g[i] = p.g_rgb ? p.g_rgb[3 * at.pixel + i] : 0.f;
    g[4 + i] = p.g_normal ? p.g_normal[3 * at.pixel + i] : 0.f;
    if (p.background) g_through += g[i] * p.background[3 * at.view + i];
  }
  g[3] = p.g_depth && alpha > 0.f ? p.g_depth[at.pixel] / alpha : 0.f;
  if (p.g_depth) g_alpha -= g[3] * p.depth[at.pixel];
  return through * (g_through - g_alpha);
}

// `rows` must be zero for group 0; further groups add to it.
extern "C" __global__ void __launch_bounds__(256) dl_splat_backward(const SplatParams p, int group) {
  __shared__ __align__(16) float record[kBackwardBatch][16];
  __shared__ float part[kWarps][kBackwardBatch][13];
  __shared__ int farthest[kWarps];
  const Place at = place_of(p);
  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp;
  const int last = at.pixel >= 0 ? p.last[at.pixel] : -1;
  float through = at.pixel >= 0 ? p.through[at.pixel] : 1.f, g[7] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f}, behind = 0.f;
  if (at.pixel >= 0) behind = read_gradients(p, at, group, through, g);
  const float px = at.x + 0.5f, py = at.y + 0.5f;
  const int warp_last = warp_max(last);
  if (lane == 0) farthest[warp] = warp_last;
  __syncthreads();
  int end = 0;
  for (int i = 0; i < kWarps; i++) end = farthest[i] + 1 > end ? farthest[i] + 1 : end;
  for (; end > 0; end -= kBackwardBatch) {
    const int first = end > kBackwardBatch ? end - kBackwardBatch : 0, count = end - first;
    __syncthreads();
    const int mine = int(threadIdx.x);
    if (mine < count) load_record(p, at.view, at.begin + first + mine, group, record[mine]);
    __syncthreads();
    for (int k = count - 1; k >= 0; k--) {
      const float* r = record[k];
      const float dx = px - r[0], dy = py - r[1], e = log2_alpha(r, dx, dy);
      const bool on = first + k <= last && e >= kLog2MinAlpha;
      if (!__any_sync(0xffffffffu, on)) {
        if (lane < 13) part[warp][k][lane] = 0.f;
        continue;
      }
      float weight = 0.f, slope = 0.f;
      if (on) {
        const float free = exp2_(e), alpha = min_(free, kMaxAlpha), keep = 1.f / (1.f - alpha), before = through * keep;
        weight = alpha * before;
        float colour = 0.f;
        for (int f = 0; f < 7; f++) colour += g[f] * r[6 + f];
        slope = free < kMaxAlpha ? alpha * (before * colour - behind * keep) : 0.f;
        behind += weight * colour;
        through = before;
      }
      const float value[13] = {slope,           slope * dx,      slope * dy,      slope * dx * dx, slope * dx * dy,
                               slope * dy * dy, weight * g[0],   weight * g[1],   weight * g[2],   weight * g[3],
                               weight * g[4],   weight * g[5],   weight * g[6]};
      for (int i = 0; i < 13; i++) {
        const float total = warp_sum(value[i]);
        if (lane == 0) part[warp][k][i] = total;
      }
    }
    __syncthreads();
    for (int i = int(threadIdx.x); i < count * 13; i += kPixels) {
      const int k = i / 13, field = i % 13;
      float total = 0.f;
      for (int w = 0; w < kWarps; w++) total += part[w][k][field];
      const int64_t pair = at.begin + first + k;
      const int channel = 7 * (group - 1) + field - 6;
      if (field < 6 || group == 0)
        p.rows[pair * 16 + (field < 6 ? field : field + 2)] += total;
      else if (channel < p.extra_count)
        p.extra_rows[pair * p.extra_count + channel] = total;
    }
  }
}

// Sum of the rows of (view b, splat n): 16 numbers. Adds to d_extra.
__device__ inline void sum_rows(const SplatParams& p, int64_t at, int64_t n, float* total) {
  const int64_t first = p.offsets[at], last = first + tiles_of(p.rects + 4 * at);
  for (int64_t j = first; j < last && j < p.pair_count; j++) {
    const int64_t slot = p.slots[j];
    const float4* row = reinterpret_cast<const float4*>(p.rows + slot * 16);
    for (int i = 0; i < 4; i++) {
      const float4 v = row[i];
      total[4 * i] += v.x, total[4 * i + 1] += v.y, total[4 * i + 2] += v.z, total[4 * i + 3] += v.w;
    }
    for (int e = 0; p.g_extra && e < p.extra_count; e++)
      p.d_extra[n * p.extra_count + e] += p.extra_rows[slot * p.extra_count + e];
  }
}

// Gradient through spherical harmonics: adds to d_sh and returns the gradient to the mean.
__device__ inline Vec3<float> sh_gradient(const SplatParams& p, const SplatView& view, int64_t n, Vec3<float> mean,
                                          const float* g) {
  float distance, basis[kMaxHarmonics], along[kMaxHarmonics];
  const Vec3<float> direction = view_direction(mean, view, distance);
  sh_basis(direction, p.sh_count, basis);
#pragma unroll
  for (int k = 0; k < kMaxHarmonics; k++) {
    along[k] = 0.f;
    for (int i = 0; k < p.sh_count && i < 3; i++) {
      const int64_t at = (n * p.sh_count + k) * 3 + i;
      p.d_sh[at] += basis[k] * g[i];
      along[k] += p.sh[at] * g[i];
    }
  }
  const Vec3<float> d = sh_backward(direction, p.sh_count, along);
  return (1.f / distance) * (d - dot(direction, d) * direction);
}

// d_extra and d_sh must be zero.
extern "C" __global__ void __launch_bounds__(128) dl_splat_gather(const SplatParams p) {
  const int64_t n = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= p.count) return;
  const SplatInput<float> in = input_of(p, n);
  SplatInput<float> d = {};
  float d_colour[3] = {0.f, 0.f, 0.f};
  for (int b = 0; b < p.views; b++) {
    const int64_t at = int64_t(b) * p.count + n;
    if (p.radii[at] <= 0.f) continue;
    float total[16] = {};
    sum_rows(p, at, n, total);
    const SplatView view = view_of(p, b);
    const Projection<float> s = project(in, view, p.options);
    float index, sign, g_colour[3];
    facing_normal(in, s, view, index, sign);
    const ProjectionGrad<float> g = from_moments(s, total, total + 8);
    if (p.d_probe) p.d_probe[2 * at] = g.u, p.d_probe[2 * at + 1] = g.v;
    project_backward(in, s, view, p.options, g, index, sign, d);
    for (int i = 0; i < 3; i++) {
      g_colour[i] = p.colors || p.records[at].feature[i] > 0.f ? total[8 + i] : 0.f;
      d_colour[i] += g_colour[i];
    }
    if (p.sh) d.mean = d.mean + sh_gradient(p, view, n, in.mean, g_colour);
  }
  const float mean[3] = {d.mean.x, d.mean.y, d.mean.z}, scale[3] = {d.scale.x, d.scale.y, d.scale.z};
  for (int i = 0; i < 3; i++) {
    p.d_means[3 * n + i] = mean[i];
    p.d_scales[3 * n + i] = scale[i];
    if (p.d_colors) p.d_colors[3 * n + i] = d_colour[i];
  }
  for (int i = 0; i < 4; i++) p.d_quats[4 * n + i] = d.quat[i];
  p.d_opacities[n] = d.opacity;
}
