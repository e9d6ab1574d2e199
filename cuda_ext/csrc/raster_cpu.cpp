// SPDX-License-Identifier: Apache-2.0
// raster_cpu.cpp - which triangle each pixel sees, and where in it.
//
// Visibility: vertices are snapped, triangles are sorted into 64 x 64 tiles (bins hold indices only), then every tile is
// filled by one thread in a depth buffer of its own. A triangle up to 64 pixels wide takes 32-bit edge functions, eight
// pixels at a time; a larger one solves each row's span in 64-bit integers. Both are exact, so they agree. The result
// does not depend on the number of threads: a tile sees its triangles in ascending order and keeps the first of equals.
#include <memory>
#include <new>
#include <vector>

#include "raster.h"
#include "raster_slabs.h"
#include "simd.h"

namespace {

using namespace dl;

constexpr int kTile = 64, kEight = 8;
constexpr int kStride = kTile + kEight;        // a row's last group of eight may run over
constexpr int kSmall = 64 * kSub;              // largest side for 32-bit edge functions
constexpr int64_t kGroupItems = 1 << 21;       // vertices + triangles of the views that are binned together
typedef int V8i __attribute__((vector_size(32), may_alias));
typedef float V8f __attribute__((vector_size(32), may_alias));

struct Tile {
  int c0, r0, c1, r1;             // first and last column and row
  float depth[kTile * kStride];
  int winner[kTile * kStride];    // 1 + triangle
};

template <class V, class T>
DL_HD V load8(const T* p) { V v; memcpy(&v, p, sizeof v); return v; }
template <class V, class T>
DL_HD void store8(T* p, V v) { memcpy(p, &v, sizeof v); }

// Depth test of eight pixels from `at` on; `inside` is a mask.
DL_HD void test8(Tile& tile, int at, V8i inside, V8f z, int id) {
  const V8f old = load8<V8f>(tile.depth + at);
  const V8i pass = inside & (z < old);
  store8(tile.depth + at, pass ? z : old);
  store8(tile.winner + at, pass ? id - V8i{} : load8<V8i>(tile.winner + at));
}

DL_HD V8f depth8(const Fill& f, float row_z, int column) {
  const V8f lane = {0, 1, 2, 3, 4, 5, 6, 7};
  const V8f px = float(column * kSub + kSub / 2 - f.x[0]) * (1.f / kSub) + lane;
  const V8f z = row_z + f.zx * px, low = f.z_low - V8f{}, high = f.z_high - V8f{};
  const V8f raised = z > low ? z : low;
  return raised < high ? raised : high;
}

DL_HD float row_depth(const Fill& f, int row) {
  return f.z + f.zy * (float(row * kSub + kSub / 2 - f.y[0]) * (1.f / kSub));
}

void fill_small(Tile& tile, const Fill& f, const Box& box, int id) {
  const V8i lane = {0, 1, 2, 3, 4, 5, 6, 7};
  int start[3];
  V8i across[3];
  for (int i = 0; i < 3; ++i) {
    start[i] = int(edge_at(f, i, box.c0, box.r0));
    across[i] = lane * (-f.dy[i] * kSub);
  }
  for (int row = box.r0; row <= box.r1; ++row) {
    const float row_z = row_depth(f, row);
    V8i e0 = start[0] + across[0], e1 = start[1] + across[1], e2 = start[2] + across[2];
    int at = (row - tile.r0) * kStride + box.c0 - tile.c0;
    for (int column = box.c0; column <= box.c1; column += kEight, at += kEight) {
      const V8i inside = ((e0 | e1 | e2) >= 0) & (lane <= box.c1 - column);
      test8(tile, at, inside, depth8(f, row_z, column), id);
      e0 -= f.dy[0] * kSub * kEight, e1 -= f.dy[1] * kSub * kEight, e2 -= f.dy[2] * kSub * kEight;
    }
    for (int i = 0; i < 3; ++i) start[i] += f.dx[i] * kSub;
  }
}

int64_t floor_div(int64_t a, int64_t b) {  // b > 0
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}

void fill_large(Tile& tile, const Fill& f, const Box& box, int id) {
  const V8i lane = {0, 1, 2, 3, 4, 5, 6, 7};
  for (int row = box.r0; row <= box.r1; ++row) {
    int64_t first = 0, last = box.c1 - box.c0;
    for (int i = 0; i < 3; ++i) {  // E + k * step >= 0
      const int64_t e = edge_at(f, i, box.c0, row), step = -int64_t(f.dy[i]) * kSub;
      if (step > 0) {
        const int64_t k = -floor_div(e, step);
        if (k > first) first = k;
      } else if (step < 0) {
        const int64_t k = floor_div(e, -step);
        if (k < last) last = k;
      } else if (e < 0) {
        last = -1;
      }
    }
    const float row_z = row_depth(f, row);
    for (int64_t k = first; k <= last; k += kEight) {
      const int column = box.c0 + int(k), at = (row - tile.r0) * kStride + column - tile.c0;
      test8(tile, at, lane <= int(last - k), depth8(f, row_z, column), id);
    }
  }
}

void fill(Tile& tile, const Corner& a, const Corner& b, const Corner& c, int id) {
  Box box = box_of(a, b, c, tile.r1 + 1, tile.c1 + 1);
  box.c0 = imax(box.c0, tile.c0), box.r0 = imax(box.r0, tile.r0);
  Fill f;
  if (box.c0 > box.c1 || box.r0 > box.r1 || !setup(a, b, c, f)) return;
  int side = 0;
  for (int i = 0; i < 3; ++i) side = imax(side, imax(imax(f.dx[i], -f.dx[i]), imax(f.dy[i], -f.dy[i])));
  side <= kSmall ? fill_small(tile, f, box, id) : fill_large(tile, f, box, id);
}

struct Scene {
  const float* clip;         // [views, V, 4]
  const int32_t* triangles;  // [T, 3]
  int views, height, width;
  int64_t vertices, count;
};

bool in_range(const Scene& s, const int32_t* t) {
  for (int i = 0; i < 3; ++i)
    if (t[i] < 0 || t[i] >= s.vertices) return false;
  return true;
}

// Calls use(a, b, c) for the pieces of a triangle that reaches outside the planes.
template <class Use>
void clipped(const Scene& s, int64_t view, const int32_t* t, const Use& use) {
  Hom polygon[kMaxPolygon];
  for (int i = 0; i < 3; ++i) polygon[i] = to_pixel(s.clip + 4 * (view * s.vertices + t[i]), s.height, s.width);
  const int n = clip_polygon(polygon);
  for (int i = 1; i + 1 < n; ++i) use(snap(polygon[0]), snap(polygon[i]), snap(polygon[i + 1]));
}

// Range of tiles, packed; empty when the first is after the last.
struct TileRange {
  uint16_t c0, r0, c1, r1;
};
constexpr TileRange kNowhere = {1, 1, 0, 0};

TileRange tile_range(const Scene& s, const Corner* corners, int64_t view, const int32_t* t) {
  if (!in_range(s, t)) return kNowhere;
  const Corner &a = corners[t[0]], &b = corners[t[1]], &c = corners[t[2]];
  const int all = a.mask | b.mask | c.mask;
  if ((all & kBroken) || (a.mask & b.mask & c.mask)) return kNowhere;
  Box box = {s.width, -1, s.height, -1};
  if (all) {
    clipped(s, view, t, [&](const Corner& p, const Corner& q, const Corner& r) {
      const Box piece = box_of(p, q, r, s.height, s.width);
      if (piece.c0 > piece.c1 || piece.r0 > piece.r1) return;
      box.c0 = imin(box.c0, piece.c0), box.c1 = imax(box.c1, piece.c1);
      box.r0 = imin(box.r0, piece.r0), box.r1 = imax(box.r1, piece.r1);
    });
  } else {
    box = box_of(a, b, c, s.height, s.width);
  }
  if (box.c0 > box.c1 || box.r0 > box.r1) return kNowhere;
  return {uint16_t(box.c0 / kTile), uint16_t(box.r0 / kTile), uint16_t(box.c1 / kTile), uint16_t(box.r1 / kTile)};
}

void fill_tile(const Scene& s, const Corner* corners, int64_t view, const int32_t* bin, int64_t size, Tile& tile, int32_t* out) {
  const float far = 1.f + 1.1920929e-7f;  // the next float after 1: z <= 1 passes
  for (int i = 0; i < kTile * kStride; ++i) tile.depth[i] = far, tile.winner[i] = 0;
  for (int64_t k = 0; k < size; ++k) {
    const int32_t* t = s.triangles + 3 * int64_t(bin[k]);
    const Corner &a = corners[t[0]], &b = corners[t[1]], &c = corners[t[2]];
    const int id = bin[k] + 1;
    if (a.mask | b.mask | c.mask)
      clipped(s, view, t, [&](const Corner& p, const Corner& q, const Corner& r) { fill(tile, p, q, r, id); });
    else
      fill(tile, a, b, c, id);
  }
  for (int row = tile.r0; row <= tile.r1; ++row)
    memcpy(out + (view * s.height + row) * s.width + tile.c0, tile.winner + (row - tile.r0) * kStride,
           size_t(tile.c1 - tile.c0 + 1) * sizeof(int32_t));
}

// Views [0, s.views) of s, binned together in one parallel region. False when memory ran out.
bool visible_group(const Scene& s, int32_t* out, int threads) {
  const int64_t tiles_x = (s.width + kTile - 1) / kTile, tiles_y = (s.height + kTile - 1) / kTile, tiles = tiles_x * tiles_y;
  const int64_t chunks = s.count < 4096 ? 1 : threads;  // triangles are counted per chunk so that bins stay in order
  std::vector<Corner> corners(s.views * s.vertices);
  std::vector<TileRange> ranges(s.views * s.count);
  std::vector<int64_t> start(s.views * tiles * chunks + 1);  // [view, tile, chunk]
  std::unique_ptr<int32_t[]> bins;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t v = 0; v < s.views * s.vertices; ++v) corners[v] = project(s.clip + 4 * v, s.height, s.width);
    // Visits (slot, triangle) for all tiles the triangles of one chunk touch.
    const auto each = [&](int64_t item, const auto& use) {
      const int64_t view = item / chunks, chunk = item % chunks;
      for (int64_t t = s.count * chunk / chunks; t < s.count * (chunk + 1) / chunks; ++t) {
        const TileRange& range = ranges[view * s.count + t];
        for (int64_t r = range.r0; r <= range.r1; ++r)
          for (int64_t c = range.c0; c <= range.c1; ++c) use(((view * tiles) + r * tiles_x + c) * chunks + chunk, t);
      }
    };
#pragma omp for schedule(static)
    for (int64_t item = 0; item < s.views * chunks; ++item) {
      const int64_t view = item / chunks, chunk = item % chunks;
      for (int64_t t = s.count * chunk / chunks; t < s.count * (chunk + 1) / chunks; ++t)
        ranges[view * s.count + t] = tile_range(s, corners.data() + view * s.vertices, view, s.triangles + 3 * t);
      each(item, [&](int64_t slot, int64_t) { ++start[slot + 1]; });
    }
#pragma omp single
    {
      for (size_t i = 1; i < start.size(); ++i) start[i] += start[i - 1];
      bins.reset(new (std::nothrow) int32_t[size_t(start.back()) + 1]);
    }
    if (bins) {
#pragma omp for schedule(static)
      for (int64_t item = 0; item < s.views * chunks; ++item)
        each(item, [&](int64_t slot, int64_t t) { bins[size_t(start[slot]++)] = int32_t(t); });
      Tile tile;
#pragma omp for schedule(dynamic, 1)
      for (int64_t item = 0; item < s.views * tiles; ++item) {
        const int64_t view = item / tiles, c = item % tiles % tiles_x, r = item % tiles / tiles_x;
        tile.c0 = int(c) * kTile, tile.c1 = imin(tile.c0 + kTile, s.width) - 1;
        tile.r0 = int(r) * kTile, tile.r1 = imin(tile.r0 + kTile, s.height) - 1;
        // Filling moved each slot's start to its end.
        const int64_t first = item == 0 ? 0 : start[item * chunks - 1], last = start[(item + 1) * chunks - 1];
        fill_tile(s, corners.data() + view * s.vertices, view, bins.get() + first, last - first, tile, out);
      }
    }
  }
  return bins != nullptr;
}

// Sixteen pixels of one row, gathered.
struct Block {
  Corners3<Vf> corners;
  int32_t vertex[3][kLanes];  // row of the clip array, -1 without a triangle
  bool any;
};

void gather(const Scene& s, const float* clip, const int32_t* ids, int n, Block& block) {
  static const float nothing[4] = {};
  block.any = false;
  for (int k = 0; k < n; ++k) block.any |= ids[k] > 0;
  if (!block.any) return;
  alignas(64) float lanes[12][kLanes];
  for (int k = 0; k < kLanes; ++k) {
    const int32_t id = k < n ? ids[k] : 0;
    const int32_t* t = s.triangles + 3 * (int64_t(id) - 1);
    const bool hit = id > 0 && id <= s.count && in_range(s, t);
    for (int i = 0; i < 3; ++i) {
      block.vertex[i][k] = hit ? t[i] : -1;
      const float* from = hit ? clip + 4 * int64_t(t[i]) : nothing;
      for (int j = 0; j < 4; ++j) lanes[4 * i + j][k] = from[j];
    }
  }
  for (int i = 0; i < 3; ++i) {
    block.corners.x[i] = load(lanes[4 * i]), block.corners.y[i] = load(lanes[4 * i + 1]);
    block.corners.z[i] = load(lanes[4 * i + 2]), block.corners.w[i] = load(lanes[4 * i + 3]);
  }
}

PixelFrame<Vf> frame(const Scene& s, int64_t row, int64_t column) {
  const Vf step = to_float(lane_index());
  return {0.5f * s.width - 0.5f - float(column) - step, splat_f(0.5f * s.height - 0.5f - float(row)),
          splat_f(0.5f * s.width), splat_f(0.5f * s.height)};
}

}  // namespace

// triangle [B, H, W]: 1 + the nearest triangle, 0 for none. Returns 0, or 1 when memory ran out.
DL_API int dl_raster_visible(const dl::RasterParams* params, int32_t* triangle, int threads) {
  const RasterParams& p = *params;
  const int64_t group = imax(1, int(kGroupItems / (p.vertices + p.count + 1)));
  try {
    for (int64_t view = 0; view < p.views; view += group) {
      const int64_t n = view + group < p.views ? group : p.views - view;
      const bool done = visible_group({p.clip + view * p.vertices * 4, p.triangles, int(n), int(p.height), int(p.width), p.vertices, p.count},
                    triangle + view * p.height * p.width, threads);
      if (!done) return 1;
    }
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return 0;
}

// uv [B, H, W, 2], depth [B, H, W], slope [B, H, W, 4]; zeros without a triangle.
DL_API int dl_raster_barycentrics(
    const dl::RasterParams* params, const int32_t* triangle, float* uv, float* depth, float* slope, int threads) {
  const RasterParams& p = *params;
  const Scene s = {p.clip, p.triangles, int(p.views), int(p.height), int(p.width), p.vertices, p.count};
#pragma omp parallel for num_threads(threads) schedule(dynamic, 16)
  for (int64_t line = 0; line < p.views * p.height; ++line) {
    const int64_t view = line / p.height, row = line % p.height;
    for (int64_t column = 0; column < p.width; column += kLanes) {
      const int64_t at = line * p.width + column;
      const int n = p.width - column < kLanes ? int(p.width - column) : kLanes;
      Block block;
      gather(s, p.clip + view * p.vertices * 4, triangle + at, n, block);
      if (!block.any) {
        memset(uv + 2 * at, 0, sizeof(float) * 2 * n), memset(depth + at, 0, sizeof(float) * n);
        memset(slope + 4 * at, 0, sizeof(float) * 4 * n);
        continue;
      }
      const Weights<Vf> w = weights(block.corners, frame(s, row, column));
      alignas(64) float out[7][kLanes];
      Vf slopes[4];
      weight_slopes(block.corners, w, slopes);
      store(out[0], w.b[0]), store(out[1], w.b[1]), store(out[2], w.depth);
      for (int i = 0; i < 4; ++i) store(out[3 + i], slopes[i]);
      for (int k = 0; k < n; ++k) {
        const float hit = block.vertex[0][k] >= 0 ? 1.f : 0.f;
        uv[2 * (at + k)] = hit * out[0][k], uv[2 * (at + k) + 1] = hit * out[1][k];
        depth[at + k] = hit * out[2][k];
        for (int i = 0; i < 4; ++i) slope[4 * (at + k) + i] = hit * out[3 + i][k];
      }
    }
  }
  return 0;
}

// grad_clip [B, V, 4] from grad_uv [B, H, W, 2] and grad_depth [B, H, W]. Returns 0, or 1 when memory ran out.
DL_API int dl_raster_barycentrics_backward(const dl::RasterParams* params, const int32_t* triangle,
                                           const float* grad_uv, const float* grad_depth, float* grad_clip, int threads) {
  const RasterParams& p = *params;
  const Scene s = {p.clip, p.triangles, int(p.views), int(p.height), int(p.width), p.vertices, p.count};
  const auto body = [&](int64_t view, int64_t first, int64_t last, float* target) {
    for (int64_t row = first; row < last; ++row)
      for (int64_t column = 0; column < p.width; column += kLanes) {
        const int64_t at = (view * p.height + row) * p.width + column;
        const int n = p.width - column < kLanes ? int(p.width - column) : kLanes;
        Block block;
        gather(s, p.clip + view * p.vertices * 4, triangle + at, n, block);
        if (!block.any) continue;
        alignas(64) float in[3][kLanes] = {};
        for (int k = 0; k < n; ++k)
          in[0][k] = grad_uv[2 * (at + k)], in[1][k] = grad_uv[2 * (at + k) + 1], in[2][k] = grad_depth[at + k];
        const PixelFrame<Vf> f = frame(s, row, column);
        const Weights<Vf> w = weights(block.corners, f);
        const Corners3<Vf> g = weights_backward(block.corners, f, w, load(in[0]), load(in[1]), load(in[2]));
        for (int i = 0; i < 3; ++i) {
          alignas(64) float out[4][kLanes];
          store(out[0], g.x[i]), store(out[1], g.y[i]), store(out[2], g.z[i]), store(out[3], g.w[i]);
          for (int k = 0; k < n; ++k) {
            if (block.vertex[i][k] < 0) continue;
            float* to = target + 4 * int64_t(block.vertex[i][k]);
            for (int j = 0; j < 4; ++j) to[j] += out[j][k];
          }
        }
      }
  };
  return sum_slabs(grad_clip, p.views, p.height, p.vertices * 4, threads, body) ? 0 : 1;
}
