// SPDX-License-Identifier: Apache-2.0
// splat_cpu.cpp - CPU launchers of `splat`.
//
//   project   views x splats, 16 splats at a time: records, boxes in tiles; then offsets of the pairs
//   bin       per view, or per range of depths with fewer views than threads, a stable radix sort by depth; then a
//             counting sort of the pairs by tile
//   forward   tiles, dynamically scheduled (splat_tile.h)
//   backward  tiles fill one row of gradients per pair; then splats sum their rows, view by view, and go back
//             through the projection
// Nothing is accumulated across threads, so the bits do not depend on the number of threads.
#include <algorithm>
#include <memory>
#include <vector>

#include "splat_tile.h"

namespace {

using namespace dl;

int64_t tiles_per_view(const SplatParams& p) {
  return int64_t((p.width + kTile - 1) / kTile) * ((p.height + kTile - 1) / kTile);
}

// Column `column` of 16 rows of a [N, stride] array; rows past the end repeat the last.
Vf gather(const float* base, int64_t row, int64_t count, int stride, int column) {
  Vf v;
  for (int l = 0; l < kLanes; l++) v[l] = base[(row + l < count ? row + l : count - 1) * stride + column];
  return v;
}

void scatter(float* base, int64_t row, int64_t count, int stride, int column, Vf v) {
  for (int l = 0; l < kLanes && row + l < count; l++) base[(row + l) * stride + column] = v[l];
}

Vec3<Vf> load_triples(const float* base, int64_t n, int64_t count) {
  Vf v[3];
  if (n + kLanes <= count)
    deinterleave3(base + 3 * n, v);
  else
    for (int i = 0; i < 3; i++) v[i] = gather(base, n, count, 3, i);
  return {v[0], v[1], v[2]};
}

void store_triples(float* base, int64_t n, int64_t count, Vec3<Vf> v) {
  const Vf columns[3] = {v.x, v.y, v.z};
  if (n + kLanes <= count)
    interleave3(columns, base + 3 * n);
  else
    for (int i = 0; i < 3; i++) scatter(base, n, count, 3, i, columns[i]);
}

SplatInput<Vf> load_input(const SplatParams& p, int64_t n) {
  SplatInput<Vf> in;
  in.mean = load_triples(p.means, n, p.count);
  in.scale = load_triples(p.scales, n, p.count);
  for (int i = 0; i < 4; i++) in.quat[i] = gather(p.quats, n, p.count, 4, i);
  in.opacity = gather(p.opacities, n, p.count, 1, 0);
  return in;
}

// Every number of the splats is finite and below kLargest.
Vi sane_input(const SplatParams& p, int64_t n, const SplatInput<Vf>& in, const Vf rgb[3]) {
  const Vf numbers[14] = {in.mean.x, in.mean.y, in.mean.z, in.scale.x, in.scale.y, in.scale.z, in.quat[0],
                          in.quat[1], in.quat[2], in.quat[3], in.opacity, rgb[0], rgb[1], rgb[2]};
  Vi sane = splat_i(-1);
  for (const Vf& x : numbers) sane &= abs_(x) < kLargest;
  for (int i = 0; p.sh && i < 3 * p.sh_count; i++) sane &= abs_(gather(p.sh, n, p.count, 3 * p.sh_count, i)) < kLargest;
  for (int i = 0; i < p.extra_count; i++) sane &= abs_(gather(p.extra, n, p.count, p.extra_count, i)) < kLargest;
  return sane;
}

void colour_of(const SplatParams& p, const SplatView& view, int64_t n, const SplatInput<Vf>& in, Vf rgb[3]) {
  if (p.colors) {
    const Vec3<Vf> given = load_triples(p.colors, n, p.count);
    rgb[0] = given.x, rgb[1] = given.y, rgb[2] = given.z;
    return;
  }
  Vf distance, basis[kMaxHarmonics];
  sh_basis(view_direction(in.mean, view, distance), p.sh_count, basis);
  for (int i = 0; i < 3; i++) {
    rgb[i] = splat_f(0.5f);
    for (int k = 0; k < p.sh_count; k++) rgb[i] += basis[k] * gather(p.sh, n, p.count, 3 * p.sh_count, 3 * k + i);
    rgb[i] = max_(rgb[i], Vf{});
  }
}

// Tiles that hold a pixel centre of [low, high], as a half-open range; first = last = 0 when there is none.
Vi tile_range(Vf low, Vf high, int pixels, Vi& first, Vi& last) {
  constexpr float kMargin = 1e-3f;
  const Vf a = clamp_(low - (0.5f + kMargin), Vf{}, splat_f(float(pixels)));
  const Vf b = clamp_(high - (0.5f - kMargin), splat_f(-1.f), splat_f(float(pixels - 1)));
  Vi from = to_int(a);
  from -= to_float(from) < a;                                 // a comparison is -1: round up
  const Vi to = to_int(b + 1.f) - 1;                         // rounds down, from -1 on
  first = from / kTile;
  last = to / kTile + 1;
  return from <= to;
}

void project_lanes(const SplatParams& p, int b, const SplatView& view, int64_t n) {
  const SplatInput<Vf> in = load_input(p, n);
  const Projection<Vf> s = project(in, view, p.options);
  Vf ex, ey, radius, index, sign;
  const Vf level = log2_(s.opacity);
  const Vf reach = (2.f / kLog2e) * (level - kLog2MinAlpha);
  Vf rgb[3];
  colour_of(p, view, n, in, rgb);
  const Vi keep = visible(s, reach, view, p.options, ex, ey, radius) & sane_input(p, n, in, rgb);
  const Vec3<Vf> normal = facing_normal(in, s, view, index, sign);
  const Vf a = (0.5f * kLog2e) * s.qa, b_ = kLog2e * s.qb, c = (0.5f * kLog2e) * s.qc;
  Vf rows[16] = {s.u, s.v, a, b_, c, level, rgb[0], rgb[1], rgb[2], s.at.z, normal.x, normal.y, normal.z,
                 -0.5f * b_ / a, -0.5f * b_ / c, select(keep, radius, Vf{})};
  Vi x0, y0, x1, y1;
  Vi touches = tile_range(s.u - ex, s.u + ex, p.width, x0, x1) & tile_range(s.v - ey, s.v + ey, p.height, y0, y1) & keep;
  alignas(64) int32_t low[kLanes], high[kLanes], key[kLanes];
  store(low, touches & (x0 | y0 << 16));
  store(high, touches & (x1 | y1 << 16));
  store(key, touches & bits(s.at.z));
  transpose(rows);
  const int count = int(p.count - n < kLanes ? p.count - n : kLanes);
  const int64_t at = int64_t(b) * p.count + n;
  memcpy(static_cast<void*>(p.records + at), rows, sizeof(SplatRecord) * size_t(count));
  memcpy(p.keys + at, key, sizeof(uint32_t) * size_t(count));
  for (int l = 0; l < count; l++) {
    const int32_t rect[2] = {low[l], high[l]};
    memcpy(p.rects + (at + l) * 4, rect, sizeof rect);
    p.radii[at + l] = p.records[at + l].radius;
  }
}

int64_t tiles_of(const uint16_t* rect) { return int64_t(rect[2] - rect[0]) * (rect[3] - rect[1]); }

// A splat of a view in order of depth, with what binning reads of it.
struct Binned {
  uint16_t rect[4];
  int32_t slot, id;
};

template <class T>
struct Array {  // left as it is found in memory
  std::unique_ptr<T[]> at;
  size_t size = 0;
  explicit Array(size_t room = 0) : at(new T[room]) {}
};

// Depths that cut the splats of view b into parts of about the same size, from a sample; the outer ones hold everything.
// Positive floats sort as integers.
std::vector<uint64_t> depth_cuts(const SplatParams& p, int b, int parts) {
  std::vector<uint64_t> cuts(size_t(parts) + 1, uint64_t(1) << 32);
  cuts[0] = 1;
  if (parts == 1) return cuts;
  constexpr int64_t kSample = 512;
  std::vector<uint32_t> sample;
  for (int64_t n = 0; n < p.count; n += 1 + p.count / kSample) sample.push_back(p.keys[int64_t(b) * p.count + n]);
  std::sort(sample.begin(), sample.end());
  const auto seen = std::upper_bound(sample.begin(), sample.end(), 0u);
  for (int i = 1; i < parts && seen != sample.end(); i++) cuts[size_t(i)] = seen[(sample.end() - seen) * i / parts];
  return cuts;
}

// Splats of view b that fall on a tile and are at from <= depth < to, nearest first; equal depths keep their order.
Array<Binned> depth_order(const SplatParams& p, int b, uint64_t from, uint64_t to) {
  struct Item {
    uint32_t key;
    int32_t id;
  };
  const uint32_t* keys = p.keys + int64_t(b) * p.count;
  Array<Item> items(size_t(p.count) + 1), other(size_t(p.count) + 1);
  uint32_t low = ~0u, high = 0;
  for (int64_t n = 0; n < p.count; n++) {
    const uint32_t key = keys[n];
    const bool inside = key >= from && key < to;
    items.at[items.size] = {key, int32_t(n)};
    items.size += inside;
    low = inside && key < low ? key : low;
    high = inside && key > high ? key : high;
  }
  constexpr int kBits = 12, kBins = 1 << kBits;
  const uint32_t range = items.size ? high - low : 0;
  for (int shift = 0; shift < 32 && range >> shift; shift += kBits) {
    uint32_t count[kBins] = {}, before = 0;
    for (size_t i = 0; i < items.size; i++) count[(items.at[i].key - low) >> shift & (kBins - 1)]++;
    for (uint32_t& bin : count) {
      const uint32_t here = bin;
      bin = before;
      before += here;
    }
    for (size_t i = 0; i < items.size; i++) {
      const Item item = items.at[i];
      other.at[count[(item.key - low) >> shift & (kBins - 1)]++] = item;
    }
    items.at.swap(other.at);
  }
  Array<Binned> order(items.size);
  const int64_t base = int64_t(b) * p.count;
  for (; order.size < items.size; order.size++) {
    const size_t i = order.size, next = i + 16 < items.size ? i + 16 : i;
    const int64_t ahead = base + items.at[next].id, at = base + items.at[i].id;
    __builtin_prefetch(p.rects + 4 * ahead);
    __builtin_prefetch(p.offsets + ahead);
    memcpy(order.at[i].rect, p.rects + 4 * at, sizeof order.at[i].rect);
    order.at[i].slot = p.offsets[at];
    order.at[i].id = items.at[i].id;
  }
  return order;
}

// Calls visit(tile, splat, slot) in order of depth. Nearly all splats touch at most 2 x 2 tiles: those take the same four
// steps, of which some hit the spare tile `across * down` and slot -1, because a mispredicted loop costs more than the
// visit.
template <class Visit>
void for_pairs(const SplatParams& p, const Array<Binned>& order, Visit visit) {
  const int across = (p.width + kTile - 1) / kTile, spare = int(tiles_per_view(p));
  for (size_t i = 0; i < order.size; i++) {
    const Binned& s = order.at[i];
    const int wide = s.rect[2] - s.rect[0], high = s.rect[3] - s.rect[1], tile = s.rect[1] * across + s.rect[0];
    if (wide <= 2 && high <= 2) {
      const bool right = wide == 2, below = high == 2, both = right && below;
      visit(tile, s.id, s.slot);
      visit(right ? tile + 1 : spare, s.id, right ? s.slot + 1 : -1);
      visit(below ? tile + across : spare, s.id, below ? s.slot + wide : -1);
      visit(both ? tile + across + 1 : spare, s.id, both ? s.slot + 3 : -1);
      continue;
    }
    for (int y = 0; y < high; y++)
      for (int x = 0; x < wide; x++) visit(tile + y * across + x, s.id, s.slot + y * wide + x);
  }
}

struct LaneGrads {
  SplatInput<Vf> input = {};
  Vf colour[3] = {};
  Vf sh[kMaxHarmonics][3];  // as many as there are
  explicit LaneGrads(const SplatParams& p) {
    for (int k = 0; k < p.sh_count; k++)
      for (Vf& channel : sh[k]) channel = Vf{};
  }
};

// Sums the rows of 16 splats in view b: [16 splats][16], zero where nothing was drawn; adds the extra gradients too.
// The rows lie anywhere, so they are all requested before the first is read.
bool sum_rows(const SplatParams& p, int b, int64_t n, std::vector<int32_t>& wanted, Vf total[kLanes]) {
  bool found = false;
  int until[kLanes];
  wanted.clear();
  for (int l = 0; l < kLanes; l++) {
    const int64_t at = int64_t(b) * p.count + n + l;
    if (n + l < p.count && p.radii[at] > 0.f) {
      found = true;
      const int32_t* slots = p.slots + p.offsets[at];
      for (int64_t j = tiles_of(p.rects + at * 4); j-- > 0; slots++) {
        if (!p.masks[*slots]) continue;
        __builtin_prefetch(p.rows + int64_t(*slots) * 16);
        wanted.push_back(*slots);
      }
    }
    until[l] = int(wanted.size());
  }
  int i = 0;
  for (int l = 0; l < kLanes; l++) {
    Vf sum = {};
    for (; i < until[l]; i++) {
      const int64_t slot = wanted[size_t(i)];
      sum += load(p.rows + slot * 16);
      for (int e = 0; p.g_extra && e < p.extra_count; e++)
        p.d_extra[(n + l) * p.extra_count + e] += p.extra_rows[slot * p.extra_count + e];
    }
    total[l] = sum;
  }
  return found;
}

void colour_backward(const SplatParams& p, const SplatView& view, int64_t n, const SplatInput<Vf>& in, const Vf g[3],
                     LaneGrads& d, Vec3<Vf>& d_mean) {
  if (p.colors) {
    for (int i = 0; i < 3; i++) d.colour[i] += g[i];
    return;
  }
  Vf distance, basis[kMaxHarmonics], along[kMaxHarmonics];
  const Vec3<Vf> direction = view_direction(in.mean, view, distance);
  sh_basis(direction, p.sh_count, basis);
  for (int k = 0; k < p.sh_count; k++) {
    along[k] = Vf{};
    for (int i = 0; i < 3; i++) {
      d.sh[k][i] += basis[k] * g[i];
      along[k] += gather(p.sh, n, p.count, 3 * p.sh_count, 3 * k + i) * g[i];
    }
  }
  const Vec3<Vf> to_direction = sh_backward(direction, p.sh_count, along);
  d_mean = (Vf(1.f / distance)) * (to_direction - dot(direction, to_direction) * direction);
}

void view_backward(const SplatParams& p, int b, const SplatView& view, int64_t n, const SplatInput<Vf>& in,
                   std::vector<int32_t>& wanted, LaneGrads& d) {
  Vf total[kLanes];
  if (!sum_rows(p, b, n, wanted, total)) return;
  transpose(total);
  const Vf *m = total, *feature = total + 8;
  const Vi drawn = gather(p.radii + int64_t(b) * p.count, n, p.count, 1, 0) > 0.f;
  const Projection<Vf> s = project(in, view, p.options);
  Vf index, sign;
  facing_normal(in, s, view, index, sign);
  const ProjectionGrad<Vf> g = from_moments(s, m, feature);
  if (p.d_probe) {
    scatter(p.d_probe + int64_t(b) * p.count * 2, n, p.count, 2, 0, select(drawn, g.u, Vf{}));
    scatter(p.d_probe + int64_t(b) * p.count * 2, n, p.count, 2, 1, select(drawn, g.v, Vf{}));
  }
  // The clamp of a spherical-harmonics colour at 0 passes no gradient.
  Vf g_colour[3];
  const float* shown = reinterpret_cast<const float*>(p.records + int64_t(b) * p.count);
  for (int i = 0; i < 3; i++)
    g_colour[i] = select(drawn & (p.colors ? drawn : Vi(gather(shown, n, p.count, 16, 6 + i) > 0.f)), feature[i], Vf{});
  SplatInput<Vf> here = {};
  Vec3<Vf> by_direction = {};
  project_backward(in, s, view, p.options, g, index, sign, here);
  colour_backward(p, view, n, in, g_colour, d, by_direction);
  const Vec3<Vf> mean = here.mean + by_direction;
  SplatInput<Vf>& to = d.input;
  to.mean = to.mean + Vec3<Vf>{select(drawn, mean.x, Vf{}), select(drawn, mean.y, Vf{}), select(drawn, mean.z, Vf{})};
  const Vec3<Vf>& scale = here.scale;
  to.scale = to.scale + Vec3<Vf>{select(drawn, scale.x, Vf{}), select(drawn, scale.y, Vf{}), select(drawn, scale.z, Vf{})};
  to.opacity += select(drawn, here.opacity, Vf{});
  for (int i = 0; i < 4; i++) to.quat[i] += select(drawn, here.quat[i], Vf{});
}

void splat_backward(const SplatParams& p, const SplatView* views, int64_t n, std::vector<int32_t>& wanted) {
  const SplatInput<Vf> in = load_input(p, n);
  LaneGrads d(p);
  for (int b = 0; b < p.views; b++) view_backward(p, b, views[b], n, in, wanted, d);
  store_triples(p.d_means, n, p.count, d.input.mean);
  store_triples(p.d_scales, n, p.count, d.input.scale);
  if (p.d_colors) store_triples(p.d_colors, n, p.count, {d.colour[0], d.colour[1], d.colour[2]});
  for (int k = 0; p.d_sh && k < p.sh_count; k++)
    for (int i = 0; i < 3; i++) scatter(p.d_sh, n, p.count, 3 * p.sh_count, 3 * k + i, d.sh[k][i]);
  for (int i = 0; i < 4; i++) scatter(p.d_quats, n, p.count, 4, i, d.input.quat[i]);
  scatter(p.d_opacities, n, p.count, 1, 0, d.input.opacity);
}

std::vector<SplatView> all_views(const SplatParams& p) {
  std::vector<SplatView> views;
  for (int b = 0; b < p.views; b++) views.push_back(view_of(p, b));
  return views;
}

int groups_of(const SplatParams& p) { return 1 + (p.extra_count + 6) / 7; }

}  // namespace

// Fills records, rects, offsets and radii; returns the number of pairs.
DL_API int64_t dl_splat_project(const dl::SplatParams* params, int threads) {
  const SplatParams& p = *params;
  const std::vector<SplatView> views = all_views(p);
  constexpr int64_t kSplats = 64 * kLanes;
  const int64_t chunks = (p.count + kSplats - 1) / kSplats;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t job = 0; job < chunks * p.views; job++) {
    const int b = int(job / chunks);
    const int64_t first = job % chunks * kSplats, last = first + kSplats < p.count ? first + kSplats : p.count;
    for (int64_t n = first; n < last; n += kLanes) project_lanes(p, b, views[size_t(b)], n);
  }
  int64_t pairs = 0;
  for (int64_t i = 0; i < p.count * p.views; i++) {
    p.offsets[i] = int32_t(pairs);
    pairs += tiles_of(p.rects + 4 * i);
  }
  return pairs;
}

// Fills starts, pairs and slots.
DL_API void dl_splat_bin(const dl::SplatParams* params, int threads) {
  const SplatParams& p = *params;
  const int64_t tiles = tiles_per_view(p);
  const int parts = p.views >= threads ? 1 : (threads + p.views - 1) / (p.views > 0 ? p.views : 1);
  std::vector<Array<Binned>> orders(size_t(p.views * parts));
  std::vector<std::vector<uint64_t>> cuts;
  for (int b = 0; b < p.views; b++) cuts.push_back(depth_cuts(p, b, parts));
  std::vector<int32_t> cursors(size_t(p.views * parts * (tiles + 1)), 0);  // with a spare tile, see for_pairs
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(dynamic)
    for (int job = 0; job < p.views * parts; job++) {
      const uint64_t* cut = cuts[size_t(job / parts)].data() + job % parts;
      orders[size_t(job)] = depth_order(p, job / parts, cut[0], cut[1]);
      int32_t* count = cursors.data() + job * (tiles + 1);
      for_pairs(p, orders[size_t(job)], [&](int tile, int32_t, int32_t) { count[tile]++; });
    }
#pragma omp single
    {
      int32_t before = 0;
      for (int b = 0; b < p.views; b++)
        for (int64_t tile = 0; tile < tiles; tile++) {
          p.starts[b * tiles + tile] = before;
          for (int part = 0; part < parts; part++) {
            int32_t& cursor = cursors[size_t((b * parts + part) * (tiles + 1) + tile)];
            const int32_t here = cursor;
            cursor = before;
            before += here;
          }
        }
      p.starts[p.views * tiles] = before;
    }
#pragma omp for schedule(dynamic)
    for (int job = 0; job < p.views * parts; job++) {
      int32_t* cursor = cursors.data() + job * (tiles + 1);
      for_pairs(p, orders[size_t(job)], [&](int tile, int32_t id, int32_t slot) {
        int32_t nowhere[2];
        const int32_t to = cursor[tile];
        cursor[tile] = to + 1;
        *(slot >= 0 && p.slots ? p.slots + slot : nowhere) = to;
        *(slot >= 0 ? p.pairs + to : nowhere + 1) = id;
      });
    }
  }
}

// Fills the pictures, masks, through and last.
DL_API void dl_splat_forward(const dl::SplatParams* params, int threads) {
  const SplatParams& p = *params;
  const int64_t tiles = tiles_per_view(p) * p.views;
#pragma omp parallel num_threads(threads)
  {
    auto chunk = std::make_unique<Chunk>();
#pragma omp for schedule(dynamic)
    for (int64_t tile = 0; tile < tiles; tile++)
      for (int group = 0; group < groups_of(p); group++) forward_tile(p, tile, group, *chunk);
  }
}

// Fills every d_* that is given; d_extra must be zero. rows and extra_rows are scratch.
DL_API void dl_splat_backward(const dl::SplatParams* params, int threads) {
  const SplatParams& p = *params;
  const std::vector<SplatView> views = all_views(p);
  const int64_t tiles = tiles_per_view(p) * p.views, lanes = (p.count + kLanes - 1) / kLanes;
  const Monomials monomials;
#pragma omp parallel num_threads(threads)
  {
    auto chunk = std::make_unique<Chunk>();
    std::vector<int32_t> wanted;
#pragma omp for schedule(dynamic)
    for (int64_t tile = 0; tile < tiles; tile++)
      for (int group = 0; group < (p.g_extra ? groups_of(p) : 1); group++)
        backward_tile(p, tile, group, monomials, *chunk);
#pragma omp for schedule(dynamic, 64)
    for (int64_t i = 0; i < lanes; i++) splat_backward(p, views.data(), i * kLanes, wanted);
  }
}

// exp2_ and log2_ of simd.h, for the tests of their error bounds; count is a multiple of 16.
DL_API void dl_simd_exp2_log2(const float* x, float* exp2, float* log2, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    store(exp2 + i, exp2_(load(x + i)));
    store(log2 + i, log2_(load(x + i)));
  }
}
