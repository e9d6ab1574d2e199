// SPDX-License-Identifier: Apache-2.0
// splat_cuda.cu - CUDA kernels of `splat`; compiled by NVRTC at first use, launched from cuda_ext/splat_cuda.py.
//
//   dl_splat_project          one thread per (view, splat); torch.sort orders each view's splats by depth, stably
//   dl_splat_emit             a warp per 32 splats of that order: tile and splat of each pair, slots side by side.
//                             torch.sort orders the pairs by tile alone, stably: depth is in their order already
//   dl_splat_ranges           one thread per sorted pair: tile starts, pairs, slots
//   dl_splat_forward          one block of 16 x 16 threads per tile, records through shared memory
//   dl_splat_backward         the same, from the back; sums over a tile go warp by warp in a fixed order into one row
//                             per pair, so that no atomics are needed and the bits are the same in every run. Pairs
//                             behind the last one that any pixel of the tile has seen get no row
//   dl_splat_gather           a warp sums the rows of its 32 splats, then one thread per splat goes back through the
//                             projection; view by view
#include "splat.h"

namespace dl {

constexpr int kPixels = kTile * kTile, kWarp = 32, kWarps = kPixels / kWarp;
constexpr int kForwardBatch = kPixels, kBackwardBatch = 32;
constexpr int kGatherThreads = 128;
constexpr int kFewRows = 16;        // of a splat: 4 lanes sum them, more are for the whole warp
constexpr int kTotal = 20;          // floats of a splat's sum in shared memory: 16 B apart, no two in one bank
constexpr uint32_t kNowhere = 0x7fffffffu;  // in place of a depth, whose bits as an integer order as it does
constexpr unsigned kAll = 0xffffffffu;      // lanes

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

__device__ inline int tiles_per_view(const SplatParams& p) {
  return ((p.width + kTile - 1) / kTile) * ((p.height + kTile - 1) / kTile);
}

// Sums of 16 numbers over a warp: lane l returns that of number l / 2. Each exchange halves what a lane keeps, so that
// 16 shuffles do what 80 would.
__device__ inline float warp_sums(float* x, int lane) {
  for (int half = 8, step = kWarp / 2; half; half /= 2, step /= 2)
    for (int i = 0; i < half; i++) {
      const bool upper = lane & step;
      const float mine = upper ? x[half + i] : x[i], theirs = upper ? x[i] : x[half + i];
      x[i] = mine + __shfl_xor_sync(kAll, theirs, step);
    }
  return x[0] + __shfl_xor_sync(kAll, x[0], 1);
}

__device__ inline int warp_max(int x) {
  for (int step = kWarp / 2; step; step /= 2) {
    const int other = __shfl_xor_sync(kAll, x, step);
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

// Copies the records of `count` pairs from `first` on, four lanes to a record; for further groups of channels those
// replace the features.
__device__ inline void load_records(const SplatParams& p, int view, int first, int count, int group, float (*to)[16]) {
  for (int i = int(threadIdx.x); i < 4 * count; i += kPixels) {
    const int64_t id = p.pairs[first + i / 4];
    const int quarter = i % 4;
    float4* target = reinterpret_cast<float4*>(to[i / 4]) + quarter;
    *target = reinterpret_cast<const float4*>(p.records + int64_t(view) * p.count + id)[quarter];
    for (int f = 0; group > 0 && f < 4; f++) {
      const int feature = 4 * quarter + f - 6, channel = 7 * (group - 1) + feature;
      if (feature < 0 || feature > 6) continue;
      to[i / 4][6 + feature] = channel < p.extra_count ? p.extra[id * p.extra_count + channel] : 0.f;
    }
  }
}

// A splat's tiles x0 y0 x1 y1, read or written at once.
struct Rect {
  int x0, y0, x1, y1;

  __device__ int across() const { return x1 - x0; }
  __device__ int tiles() const { return (x1 - x0) * (y1 - y0); }
};

__device__ inline Rect unpacked(uint64_t bits) {
  return {int(bits & 0xffff), int(bits >> 16 & 0xffff), int(bits >> 32 & 0xffff), int(bits >> 48)};
}

__device__ inline uint64_t packed_rect(const SplatParams& p, int64_t at) {
  return reinterpret_cast<const uint64_t*>(p.rects)[at];
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
  const uint64_t bits = uint64_t(rect[3]) << 48 | uint64_t(rect[2]) << 32 | uint64_t(rect[1]) << 16 | rect[0];
  reinterpret_cast<uint64_t*>(p.rects)[at] = touches ? bits : 0;
  p.offsets[at] = touches ? unpacked(bits).tiles() : 0;
  p.keys[at] = touches ? uint32_t(__float_as_int(s.at.z)) : kNowhere;
}

// `order` [B, N] the splats of each view by depth, `ends` [B, N] in that order the pairs up to and with each splat.
// keys[slot] = tile, owner[slot] = splat; slots past p.pair_count are dropped. Writes p.offsets.
extern "C" __global__ void __launch_bounds__(128)
    dl_splat_emit(const SplatParams p, const int64_t* order, const int64_t* ends, void* keys, int wide, int32_t* owner) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const bool here = i < p.count * p.views;
  const int lane = int(threadIdx.x) % kWarp, across = (p.width + kTile - 1) / kTile;
  const int64_t view = here ? i / p.count : 0, n = here ? order[i] : 0, at = view * p.count + n;
  const uint64_t bits = here ? packed_rect(p, at) : 0;
  const int count = unpacked(bits).tiles();
  int after = count;  // pairs of the warp up to and with this lane's
  for (int step = 1; step < kWarp; step *= 2) {
    const int before = __shfl_up_sync(kAll, after, step);
    if (lane >= step) after += before;
  }
  const int64_t first = here ? ends[i] - count : 0;
  if (here) p.offsets[at] = int32_t(first < p.pair_count ? first : p.pair_count);
  const int all = __shfl_sync(kAll, after, kWarp - 1);
  const int64_t room = p.pair_count - first;  // from the first lane's slot on
  const int allowed = __shfl_sync(kAll, room > 0x7fffffff ? 0x7fffffff : int(room > 0 ? room : 0), 0);
  const int start = __shfl_sync(kAll, int(first < p.pair_count ? first : p.pair_count), 0);
  const int limit = all < allowed ? all : allowed;
  for (int base = 0; base < limit; base += kWarp) {
    const int slot = base + lane;
    int from = 0;  // the lane whose splat has pair `slot`: the first one whose `after` is beyond it
    for (int step = kWarp / 2; step; step /= 2) {
      const int theirs = __shfl_sync(kAll, after, from + step - 1);
      if (theirs <= slot) from += step;
    }
    const int end = __shfl_sync(kAll, after, from), low = __shfl_sync(kAll, int(bits & 0xffffffffu), from);
    const int high = __shfl_sync(kAll, int(bits >> 32), from), whose = __shfl_sync(kAll, int(n), from);
    const int its_view = __shfl_sync(kAll, int(view), from);
    if (slot >= limit) continue;
    const Rect r = unpacked(uint64_t(uint32_t(high)) << 32 | uint32_t(low));
    const int local = slot - (end - r.tiles());
    const int tile = its_view * tiles_per_view(p) + (r.y0 + local / r.across()) * across + r.x0 + local % r.across();
    if (wide)
      static_cast<int32_t*>(keys)[start + slot] = tile;
    else
      static_cast<uint16_t*>(keys)[start + slot] = uint16_t(tile);
    owner[start + slot] = whose;
  }
}

__device__ inline int tile_at(const void* keys, int wide, int64_t i) {
  return wide ? static_cast<const int32_t*>(keys)[i] : static_cast<const uint16_t*>(keys)[i];
}

// `keys` sorted, `order` where each was, `owner` the splat of each unsorted slot. Unused slots have the key behind the
// last tile.
extern "C" __global__ void __launch_bounds__(256) dl_splat_ranges(
    const SplatParams p, const void* keys, int wide, const int64_t* order, const int32_t* owner) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.pair_count) return;
  const int tiles = tiles_per_view(p) * p.views, tile = tile_at(keys, wide, i);
  const int before = i > 0 ? tile_at(keys, wide, i - 1) : -1;
  for (int t = before + 1; t <= tile; t++) p.starts[t] = int32_t(i);
  if (i == p.pair_count - 1)
    for (int t = tile + 1; t <= tiles; t++) p.starts[t] = int32_t(p.pair_count);
  if (tile == tiles) return;
  const int64_t was = order[i];
  p.pairs[i] = owner[was];
  if (p.slots) p.slots[was] = int32_t(i);
}

extern "C" __global__ void __launch_bounds__(256, 5) dl_splat_forward(const SplatParams p, int group) {
  __shared__ __align__(16) float record[kForwardBatch][16];
  const Place at = place_of(p);
  float through = 1.f, sum[7] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
  int last = -1;
  const float px = at.x + 0.5f, py = at.y + 0.5f;
  for (int first = at.begin; first < at.end; first += kForwardBatch) {
    const bool done = at.pixel < 0 || through < kMinTransmittance;
    if (__syncthreads_and(done)) break;
    const int count = at.end - first < kForwardBatch ? at.end - first : kForwardBatch;
    load_records(p, at.view, first, count, group, record);
    __syncthreads();
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

// Group 0 writes rows, further groups add to them. `seen` [B * tiles]: the end of the tile's pairs that have rows.
extern "C" __global__ void __launch_bounds__(256) dl_splat_backward(const SplatParams p, int group, int32_t* seen) {
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
  if (threadIdx.x == 0) seen[blockIdx.x] = at.begin + end;
  for (; end > 0; end -= kBackwardBatch) {
    const int first = end > kBackwardBatch ? end - kBackwardBatch : 0, count = end - first;
    __syncthreads();
    load_records(p, at.view, at.begin + first, count, group, record);
    __syncthreads();
    for (int k = count - 1; k >= 0; k--) {
      const float* r = record[k];
      const float dx = px - r[0], dy = py - r[1], e = log2_alpha(r, dx, dy);
      const bool on = first + k <= last && e >= kLog2MinAlpha;
      if (!__any_sync(kAll, on)) {
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
      float value[16] = {slope,           slope * dx,    slope * dy,    slope * dx * dx, slope * dx * dy, slope * dy * dy,
                         weight * g[0],   weight * g[1], weight * g[2], weight * g[3],   weight * g[4],   weight * g[5],
                         weight * g[6],   0.f,           0.f,           0.f};
      const float total = warp_sums(value, lane);
      if (lane % 2 == 0 && lane < 26) part[warp][k][lane / 2] = total;
    }
    __syncthreads();
    for (int i = int(threadIdx.x); i < count * 16; i += kPixels) {  // whole rows, those without a meaning too
      const int k = i / 16, field = i % 16, which = field < 6 ? field : field - 2;
      const bool feature = field >= 8;
      float total = 0.f;
      for (int w = 0; w < kWarps && which < 13 && (field < 6 || feature); w++) total += part[w][k][which];
      const int64_t pair = at.begin + first + k;
      const int channel = 7 * (group - 1) + field - 8;
      if (group == 0)
        p.rows[pair * 16 + field] = total;
      else if (field < 6)
        p.rows[pair * 16 + field] += total;
      else if (feature && field < 15 && channel < p.extra_count)
        p.extra_rows[pair * p.extra_count + channel] = total;
    }
  }
}

__device__ inline void add(float4& to, float4 v) { to.x += v.x, to.y += v.y, to.z += v.z, to.w += v.w; }

// The pairs of a splat in a view, and which of them have rows.
struct Rows {
  int64_t first;
  int count, tile, across;  // tile: of the view's corner of the rect
  Rect rect;
};

__device__ inline Rows rows_of(const SplatParams& p, int view, int64_t n) {
  const int64_t at = int64_t(view) * p.count + n, first = p.offsets[at], room = p.pair_count - first;
  Rows rows;
  rows.first = first, rows.rect = unpacked(packed_rect(p, at)), rows.across = (p.width + kTile - 1) / kTile;
  rows.count = rows.rect.tiles();
  if (rows.count > room) rows.count = int(room > 0 ? room : 0);
  rows.tile = view * tiles_per_view(p) + rows.rect.y0 * rows.across + rows.rect.x0;
  return rows;
}

// Where the row of pair j is; -1 when it has none.
__device__ inline int slot_of(const SplatParams& p, const Rows& rows, const int32_t* seen, int j) {
  const int slot = p.slots[rows.first + j];
  return slot < seen[rows.tile + j / rows.rect.across() * rows.across + j % rows.rect.across()] ? slot : -1;
}

// Quarter `lane` % 4 of the rows j, j + step, ... of a splat.
__device__ inline float4 sum_rows(const SplatParams& p, const Rows& rows, const int32_t* seen, int j, int step, int lane) {
  float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
  for (; j < rows.count; j += step) {
    const int slot = slot_of(p, rows, seen, j);
    if (slot >= 0) add(sum, reinterpret_cast<const float4*>(p.rows)[int64_t(slot) * 4 + lane % 4]);
  }
  return sum;
}

// Sums the rows of the warp's 32 splats, from `first` on, in one view, into total[splat]; adds to d_extra.
__device__ inline void sum_splats(const SplatParams& p, int view, int64_t first, const int32_t* seen, float (*total)[kTotal]) {
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t mine = first + lane;
  const bool many = mine < p.count && rows_of(p, view, mine).count > kFewRows;
  const unsigned large = __ballot_sync(kAll, many);
  for (int k = lane / 4; k < kWarp; k += kWarp / 4) {
    if (first + k >= p.count || (large >> k & 1)) continue;
    const float4 sum = sum_rows(p, rows_of(p, view, first + k), seen, 0, 1, lane);
    reinterpret_cast<float4*>(total[k])[lane % 4] = sum;
  }
  for (int k = 0; k < kWarp; k++) {
    if (!(large >> k & 1)) continue;
    float4 sum = sum_rows(p, rows_of(p, view, first + k), seen, lane / 4, kWarp / 4, lane);
    for (int step = 4; step < kWarp; step *= 2) {
      const float4 other = make_float4(__shfl_xor_sync(kAll, sum.x, step), __shfl_xor_sync(kAll, sum.y, step),
                                       __shfl_xor_sync(kAll, sum.z, step), __shfl_xor_sync(kAll, sum.w, step));
      add(sum, other);
    }
    if (lane < 4) reinterpret_cast<float4*>(total[k])[lane] = sum;
  }
  for (int k = 0; p.g_extra && k < kWarp && first + k < p.count; k++) {
    const Rows rows = rows_of(p, view, first + k);
    for (int e = lane; e < p.extra_count; e += kWarp) {
      float sum = 0.f;
      for (int j = 0; j < rows.count; j++) {
        const int slot = slot_of(p, rows, seen, j);
        if (slot >= 0) sum += p.extra_rows[int64_t(slot) * p.extra_count + e];
      }
      p.d_extra[(first + k) * p.extra_count + e] += sum;
    }
  }
  __syncwarp();
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

// d_extra and d_sh must be zero. `seen` as dl_splat_backward left it.
extern "C" __global__ void __launch_bounds__(kGatherThreads) dl_splat_gather(const SplatParams p, const int32_t* seen) {
  __shared__ __align__(16) float totals[kGatherThreads][kTotal];
  const int64_t n = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int warp = int(threadIdx.x) / kWarp;
  const SplatInput<float> in = n < p.count ? input_of(p, n) : SplatInput<float>{};
  SplatInput<float> d = {};
  float d_colour[3] = {0.f, 0.f, 0.f};
  for (int b = 0; b < p.views; b++) {
    __syncwarp();
    sum_splats(p, b, n - int(threadIdx.x) % kWarp, seen, totals + warp * kWarp);
    const int64_t at = int64_t(b) * p.count + n;
    if (n >= p.count || p.radii[at] <= 0.f) continue;
    float total[16];
    for (int i = 0; i < 4; i++) {
      const float4 v = reinterpret_cast<const float4*>(totals[threadIdx.x])[i];
      total[4 * i] = v.x, total[4 * i + 1] = v.y, total[4 * i + 2] = v.z, total[4 * i + 3] = v.w;
    }
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
  if (n >= p.count) return;
  const float mean[3] = {d.mean.x, d.mean.y, d.mean.z}, scale[3] = {d.scale.x, d.scale.y, d.scale.z};
  for (int i = 0; i < 3; i++) {
    p.d_means[3 * n + i] = mean[i];
    p.d_scales[3 * n + i] = scale[i];
    if (p.d_colors) p.d_colors[3 * n + i] = d_colour[i];
  }
  for (int i = 0; i < 4; i++) p.d_quats[4 * n + i] = d.quat[i];
  p.d_opacities[n] = d.opacity;
}
