// SPDX-License-Identifier: Apache-2.0
// splat_tile.h - CPU rasteriser of one tile, forward and backward.
//
// A tile is 16 x 16 pixels: 16 blocks of 4 x 4, and a block is one vector of 16 lanes. A tile's splats are taken in
// chunks: each splat is tested exactly against all 16 blocks at once (lanes are blocks), which gives every block its own
// short list; then a block walks its list with its pixels in registers (lanes are pixels).
// Arrays of pixels are handled through [channel][lane] tables, because a block's rows are only 4 pixels long.
// The backward pass walks the lists from the back and recovers the transmittance by division. Sums over the pixels
// of a block are small matrix products: per splat, alpha weights [16 px] times the picture's gradients [16 px, 7], and
// gradients of the log-alpha [16 px] times the monomials (1, x, y, xx, xy, yy) [16 px, 6].
#pragma once
#include "splat.h"

namespace dl {

constexpr int kChunk = 256;          // splats of a tile handled at a time; their records stay in the first cache
constexpr int kBlocks = 16;
constexpr int kBatch = 16;           // splats of a list handled at a time in backward
constexpr float kSlack = 0.01f;      // of log2(alpha) in the block test, against rounding
typedef float Vh __attribute__((vector_size(32)));

struct Chunk {
  alignas(64) float record[kChunk][16];  // SplatRecord; for further groups of channels, those replace the features
  uint16_t list[kBlocks][kChunk + kLanes];
  int length[kBlocks];
};

struct TileView {
  int view, x0, y0;                  // first pixel
  int64_t begin, end;                // pairs
};

DL_HD TileView tile_view(const SplatParams& p, int64_t tile) {
  const int across = (p.width + kTile - 1) / kTile, down = (p.height + kTile - 1) / kTile;
  const int64_t tiles = int64_t(across) * down;
  const int view = int(tile / tiles), inside = int(tile % tiles);
  return {view, inside % across * kTile, inside / across * kTile, p.starts[tile], p.starts[tile + 1]};
}

// Channels: group 0 is rgb, depth, normal; group g > 0 is extra channels 7 (g - 1) ... 7 g - 1.
inline void load_records(const SplatParams& p, const TileView& t, int64_t at, int n, int group, Chunk& c) {
  const SplatRecord* records = p.records + int64_t(t.view) * p.count;
  constexpr int kAhead = 24;
  for (int k = 0; k < n && k < kAhead; k++) __builtin_prefetch(records + p.pairs[at + k]);
  for (int k = 0; k < n; k++) {
    if (k + kAhead < n) __builtin_prefetch(records + p.pairs[at + k + kAhead]);
    const int32_t id = p.pairs[at + k];
    memcpy(c.record[k], records + id, sizeof(SplatRecord));
    for (int f = 0; group > 0 && f < 7; f++) {
      const int channel = 7 * (group - 1) + f;
      c.record[k][6 + f] = channel < p.extra_count ? p.extra[int64_t(id) * p.extra_count + channel] : 0.f;
    }
  }
}

DL_HD Vf clamp_(Vf x, Vf low, Vf high) { return min_(max_(x, low), high); }

// Lanes are blocks: bit i is set when the splat may reach MIN_ALPHA on a pixel centre of block i. `left`, `top`: offsets
// of the blocks' first pixel centres. The least of a convex quadratic over a box lies on an edge that faces the centre.
DL_HD uint32_t blocks_reached(const float* r, Vf left, Vf top) {
  const float a = r[2], b = r[3], c = r[4], slope_x = r[13], slope_y = r[14];
  const Vf lx = left - r[0], ly = top - r[1], hx = lx + 3.f, hy = ly + 3.f;
  const Vf x1 = clamp_(Vf{}, lx, hx), y2 = clamp_(Vf{}, ly, hy);
  const Vf y1 = clamp_(slope_y * x1, ly, hy), x2 = clamp_(slope_x * y2, lx, hx);
  const Vf p1 = x1 * (a * x1 + b * y1) + c * y1 * y1, p2 = x2 * (a * x2 + b * y2) + c * y2 * y2;
  return mask_bits(min_(p1, p2) <= r[5] - kLog2MinAlpha + kSlack);
}

DL_HD Vf lane_x() { return to_float(lane_index() & 3); }
DL_HD Vf lane_y() { return to_float(lane_index() >> 2); }

inline void sort_into_blocks(const uint16_t* masks, int n, Chunk& c) {
#if defined(__AVX512F__)
  __m512i mask[kChunk / kLanes];
  uint16_t padded[kLanes] = {};
  const int vectors = (n + kLanes - 1) / kLanes;
  for (int v = 0; v < vectors; v++) {
    const uint16_t* from = masks + v * kLanes;
    if ((v + 1) * kLanes > n) {
      memcpy(padded, from, size_t(n - v * kLanes) * sizeof(uint16_t));
      from = padded;
    }
    mask[v] = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  for (int b = 0; b < kBlocks; b++) {
    int length = 0;
    for (int v = 0; v < vectors; v++) {
      const __mmask16 on = _mm512_test_epi32_mask(mask[v], _mm512_set1_epi32(1 << b));
      const __m512i ks = _mm512_maskz_compress_epi32(on, (__m512i)(lane_index() + v * kLanes));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(c.list[b] + length), _mm512_cvtepi32_epi16(ks));
      length += __builtin_popcount(on);
    }
    c.length[b] = length;
  }
#else
  for (int b = 0; b < kBlocks; b++) c.length[b] = 0;
  for (int k = 0; k < n; k++)
    for (uint32_t m = masks[k]; m; m &= m - 1) {
      const int b = __builtin_ctz(m);
      c.list[b][c.length[b]++] = uint16_t(k);
    }
#endif
}

struct BlockState {
  Vf through, sum[7];
  Vi last;
};

// `Keep`: also note the last splat composited, which only backward needs.
template <bool Keep>
void forward_block(const Chunk& c, int block, int rank, Vf px, Vf py, BlockState& s) {
  Vf through = s.through, sum[7];
  for (int f = 0; f < 7; f++) sum[f] = s.sum[f];
  Vi last = s.last;
  const int length = c.length[block];
  for (int i = 0; i < length; i++) {
    const int k = c.list[block][i];
    const float* r = c.record[k];
    const Vf e = log2_alpha(r, Vf(px - r[0]), Vf(py - r[1]));
    const Vi on = (e >= kLog2MinAlpha) & (through >= kMinTransmittance);
    const Vf alpha = min_(exp2_(e), splat_f(kMaxAlpha));
    const Vf weight = from_bits(bits(alpha * through) & on);
    through -= weight;
    for (int f = 0; f < 7; f++) sum[f] += weight * r[6 + f];
    if (Keep) last = select(on, splat_i(rank + k), last);
    if ((i & 7) == 7 && !any(through >= kMinTransmittance)) break;
  }
  s.through = through;
  for (int f = 0; f < 7; f++) s.sum[f] = sum[f];
  s.last = last;
}

// Where a block lies in the pictures.
struct BlockPlace {
  int64_t first;       // index of its first pixel
  int columns, rows;   // inside the picture, up to 4
};

DL_HD BlockPlace place_of(const SplatParams& p, const TileView& t, int block) {
  const int x0 = t.x0 + block % 4 * 4, y0 = t.y0 + block / 4 * 4;
  const int columns = p.width - x0, rows = p.height - y0;
  return {(int64_t(t.view) * p.height + y0) * p.width + x0, columns < 4 ? columns : 4, rows < 4 ? rows : 4};
}

// 16 pixels of `channels` numbers, pixel by pixel, to and from a picture.
inline void put_block(const BlockPlace& at, int width, int channels, const void* pixels, void* picture) {
  const char* from = static_cast<const char*>(pixels);
  char* to = static_cast<char*>(picture) + at.first * channels * 4;
  for (int y = 0; y < at.rows; y++) {
    const char* source = from + y * 16 * channels;
    char* target = to + int64_t(y) * width * channels * 4;
    if (at.columns == 4 && channels == 3) memcpy(target, source, 48);
    else if (at.columns == 4 && channels == 1) memcpy(target, source, 16);
    else if (at.columns > 0) memcpy(target, source, size_t(at.columns * channels * 4));
  }
}

inline void get_block(const BlockPlace& at, int width, int channels, const void* picture, void* pixels) {
  char* to = static_cast<char*>(pixels);
  const char* from = static_cast<const char*>(picture) + at.first * channels * 4;
  for (int y = 0; y < at.rows; y++) {
    char* target = to + y * 16 * channels;
    const char* source = from + int64_t(y) * width * channels * 4;
    if (at.columns == 4 && channels == 3) memcpy(target, source, 48);
    else if (at.columns == 4 && channels == 1) memcpy(target, source, 16);
    else if (at.columns > 0) memcpy(target, source, size_t(at.columns * channels * 4));
  }
}

inline void write_extra(const SplatParams& p, const BlockPlace& at, int group, const BlockState& s) {
  for (int lane = 0; lane < kLanes; lane++) {
    if (lane % 4 >= at.columns || lane / 4 >= at.rows) continue;
    float* pixel = p.extra_image + (at.first + int64_t(lane / 4) * p.width + lane % 4) * p.extra_count;
    for (int f = 0, channel = 7 * (group - 1); f < 7 && channel < p.extra_count; f++, channel++)
      pixel[channel] = s.sum[f][lane];
  }
}

inline void write_block(const SplatParams& p, const TileView& t, int block, int group, const BlockState& s) {
  const BlockPlace at = place_of(p, t, block);
  if (at.columns <= 0 || at.rows <= 0) return;
  if (group > 0) return write_extra(p, at, group, s);
  Vf rgb[3] = {s.sum[0], s.sum[1], s.sum[2]};
  for (int i = 0; p.background && i < 3; i++) rgb[i] += s.through * p.background[t.view * 3 + i];
  const Vf alpha = 1.f - s.through;
  const Vf depth = select(alpha > 0.f, s.sum[3] / alpha, Vf{});
  alignas(64) float triples[3 * kLanes];
  interleave3(rgb, triples);
  put_block(at, p.width, 3, triples, p.rgb);
  interleave3(s.sum + 4, triples);
  put_block(at, p.width, 3, triples, p.normal);
  put_block(at, p.width, 1, &alpha, p.alpha);
  put_block(at, p.width, 1, &depth, p.depth);
  if (!p.last) return;
  put_block(at, p.width, 1, &s.through, p.through);
  put_block(at, p.width, 1, &s.last, p.last);
}

// The pictures are written once, in short rows: ask for the lines before the splats are computed.
inline void prefetch_pictures(const SplatParams& p, const TileView& t) {
  for (int y = t.y0; y < t.y0 + kTile && y < p.height; y++) {
    const int64_t at = (int64_t(t.view) * p.height + y) * p.width + t.x0;
    for (int line = 0; line < 48; line += 16) {
      __builtin_prefetch(p.rgb + 3 * at + line, 1);
      __builtin_prefetch(p.normal + 3 * at + line, 1);
    }
    __builtin_prefetch(p.alpha + at, 1);
    __builtin_prefetch(p.depth + at, 1);
    if (!p.last) continue;
    __builtin_prefetch(p.through + at, 1);
    __builtin_prefetch(p.last + at, 1);
  }
}

// A tile without splats, row by row.
inline void write_empty_tile(const SplatParams& p, const TileView& t) {
  const int columns = p.width - t.x0 < kTile ? p.width - t.x0 : kTile;
  float background[3 * kTile] = {}, ones[kTile];
  for (int x = 0; x < kTile; x++) {
    for (int i = 0; p.background && i < 3; i++) background[3 * x + i] = p.background[t.view * 3 + i];
    ones[x] = 1.f;
  }
  for (int y = t.y0; y < t.y0 + kTile && y < p.height; y++) {
    const int64_t at = (int64_t(t.view) * p.height + y) * p.width + t.x0;
    const size_t bytes = size_t(columns) * sizeof(float);
    memcpy(p.rgb + 3 * at, background, 3 * bytes);
    memset(p.normal + 3 * at, 0, 3 * bytes);
    memset(p.alpha + at, 0, bytes);
    memset(p.depth + at, 0, bytes);
    if (!p.last) continue;
    memcpy(p.through + at, ones, bytes);
    memset(p.last + at, 0xff, bytes);  // -1
  }
}

inline void forward_tile(const SplatParams& p, int64_t tile, int group, Chunk& c) {
  const TileView t = tile_view(p, tile);
  const Vf block_x = t.x0 + 0.5f + 4.f * lane_x(), block_y = t.y0 + 0.5f + 4.f * lane_y();
  if (group == 0 && t.begin == t.end) return write_empty_tile(p, t);
  BlockState state[kBlocks];
  for (auto& s : state) {
    s.through = splat_f(1.f);
    for (auto& v : s.sum) v = Vf{};
    s.last = splat_i(-1);
  }
  if (group == 0) prefetch_pictures(p, t);
  uint32_t alive = 0xffff;
  for (int64_t at = t.begin; at < t.end; at += kChunk) {
    const int n = int(t.end - at < kChunk ? t.end - at : kChunk);
    uint16_t masks[kChunk];
    if (!alive) memset(masks, 0, sizeof masks);
    if (alive) load_records(p, t, at, n, group, c);
    for (int k = 0; alive && k < n; k++) masks[k] = uint16_t(blocks_reached(c.record[k], block_x, block_y) & alive);
    if (p.masks) memcpy(p.masks + at, masks, size_t(n) * sizeof(uint16_t));
    if (!alive) continue;
    sort_into_blocks(masks, n, c);
    const auto walk = p.last ? forward_block<true> : forward_block<false>;
    for (int b = 0; b < kBlocks; b++) {
      if (!c.length[b]) continue;
      const Vf px = t.x0 + b % 4 * 4 + 0.5f + lane_x(), py = t.y0 + b / 4 * 4 + 0.5f + lane_y();
      walk(c, b, int(at - t.begin), px, py, state[b]);
      if (!any(state[b].through >= kMinTransmittance)) alive &= ~(1u << b);
    }
  }
  for (int b = 0; b < kBlocks; b++) write_block(p, t, b, group, state[b]);
}

struct BlockGrad {
  alignas(64) float by_pixel[kLanes][8];  // gradient of the 7 sums, and 0
  Vf by_channel[7];
  Vf through, behind;                     // transmittance; loss gradient times colour of all that lies behind
  Vi last;
};

inline void read_extra(const SplatParams& p, const BlockPlace& at, int group, BlockGrad& g) {
  for (int lane = 0; lane < kLanes; lane++) {
    if (lane % 4 >= at.columns || lane / 4 >= at.rows) continue;
    const float* pixel = p.g_extra + (at.first + int64_t(lane / 4) * p.width + lane % 4) * p.extra_count;
    for (int f = 0, channel = 7 * (group - 1); f < 7 && channel < p.extra_count; f++, channel++)
      g.by_channel[f][lane] = pixel[channel];
  }
}

inline void read_triples(const BlockPlace& at, int width, const float* picture, Vf out[3]) {
  if (!picture) return;
  alignas(64) float triples[3 * kLanes] = {};
  get_block(at, width, 3, picture, triples);
  deinterleave3(triples, out);
}

inline void read_block(const SplatParams& p, const TileView& t, int block, int group, BlockGrad& g) {
  const BlockPlace at = place_of(p, t, block);
  for (int f = 0; f < 7; f++) g.by_channel[f] = Vf{};
  g.through = splat_f(1.f), g.behind = Vf{}, g.last = splat_i(-1);
  if (at.columns > 0 && at.rows > 0) {
    get_block(at, p.width, 1, p.through, &g.through);
    get_block(at, p.width, 1, p.last, &g.last);
    if (group > 0) {
      read_extra(p, at, group, g);
    } else {
      Vf g_alpha = {}, g_through = {};
      read_triples(at, p.width, p.g_rgb, g.by_channel);
      read_triples(at, p.width, p.g_normal, g.by_channel + 4);
      if (p.g_alpha) get_block(at, p.width, 1, p.g_alpha, &g_alpha);
      for (int i = 0; p.background && i < 3; i++) g_through += g.by_channel[i] * p.background[t.view * 3 + i];
      if (p.g_depth) {
        Vf g_depth = {}, depth = {};
        get_block(at, p.width, 1, p.g_depth, &g_depth);
        get_block(at, p.width, 1, p.depth, &depth);
        const Vf alpha = 1.f - g.through;
        g.by_channel[3] = select(alpha > 0.f, g_depth / alpha, Vf{});
        g_alpha -= g.by_channel[3] * depth;
      }
      g.behind = g.through * (g_through - g_alpha);
    }
  }
  for (int f = 0; f < 7; f++)
    for (int lane = 0; lane < kLanes; lane++) g.by_pixel[lane][f] = g.by_channel[f][lane];
  for (int lane = 0; lane < kLanes; lane++) g.by_pixel[lane][7] = 0.f;
}

// (1, x, y, xx, xy, yy, 0, 0) of the pixel centres of every block, from the tile's centre.
struct Monomials {
  alignas(64) float value[kBlocks][kLanes][8];
  Monomials() {
    for (int b = 0; b < kBlocks; b++)
      for (int i = 0; i < kLanes; i++) {
        const float x = float(b % 4 * 4 + i % 4) - 7.5f, y = float(b / 4 * 4 + i / 4) - 7.5f;
        const float m[8] = {1.f, x, y, x * x, x * y, y * y, 0.f, 0.f};
        memcpy(value[b][i], m, sizeof m);
      }
  }
};

DL_HD void add_to(float* row, Vh v) {
  Vh old;
  memcpy(&old, row, sizeof old);
  old += v;
  memcpy(row, &old, sizeof old);
}

// Where a tile's gradients go: rows of the chunk, and for further groups of channels the rows of those.
struct Rows {
  float* pair;          // [chunk, 16]
  float* extra;         // [chunk, extra_count], at the group's first channel; null for group 0
  int extra_count, used;
};

// Adds to the rows of `count` <= kBatch splats: moments of h about the tile's centre, and the features' gradients.
inline void add_rows(const uint16_t* ks, int count, const float (*w)[kLanes], const float (*h)[kLanes],
                     const float (*monomials)[8], const BlockGrad& g, const Rows& rows) {
  for (int i = 0; i < count; i += 4) {
    Vh feature[4] = {}, moment[4] = {};
    for (int px = 0; px < kLanes; px++) {
      Vh gradient, monomial;
      memcpy(&gradient, g.by_pixel[px], sizeof gradient);
      memcpy(&monomial, monomials[px], sizeof monomial);
      for (int j = 0; j < 4; j++) {
        feature[j] += w[i + j][px] * gradient;
        moment[j] += h[i + j][px] * monomial;
      }
    }
    for (int j = 0; j < 4 && i + j < count; j++) {
      const int64_t k = ks[-(i + j)];
      add_to(rows.pair + k * 16, moment[j]);
      if (!rows.extra) add_to(rows.pair + k * 16 + 8, feature[j]);
      for (int f = 0; rows.extra && f < rows.used; f++) rows.extra[k * rows.extra_count + f] += feature[j][f];
    }
  }
}

// `Channels`: 3 when only rgb has a gradient, else 7.
template <int Channels>
void backward_block(const Chunk& c, int block, int rank, float x0, float y0, const Monomials& monomials, BlockGrad& g,
                    const Rows& rows) {
  alignas(64) float w[kBatch][kLanes], h[kBatch][kLanes];
  const Vf px = x0 + lane_x(), py = y0 + lane_y();
  Vf through = g.through, behind = g.behind;
  for (int end = c.length[block]; end > 0; end -= kBatch) {
    const int count = end < kBatch ? end : kBatch;
    const uint16_t* ks = c.list[block] + end - 1;  // walked downwards
    for (int i = 0; i < count; i++) {
      const int k = ks[-i];
      const float* r = c.record[k];
      const Vf e = log2_alpha(r, Vf(px - r[0]), Vf(py - r[1]));
      const Vi on = (e >= kLog2MinAlpha) & (rank + k <= g.last);
      const Vf free = exp2_(e);
      const Vf alpha = from_bits(bits(min_(free, splat_f(kMaxAlpha))) & on);
      const Vf keep = reciprocal(1.f - alpha);
      const Vf before = through * keep, weight = alpha * before;
      Vf colour = r[6] * g.by_channel[0];
      for (int f = 1; f < Channels; f++) colour += r[6 + f] * g.by_channel[f];
      const Vf slope = alpha * (before * colour - behind * keep);  // dL / d log(alpha)
      store(w[i], weight);
      store(h[i], from_bits(bits(slope) & (free < kMaxAlpha)));
      behind += weight * colour;
      through = before;
    }
    for (int i = count; i < ((count + 3) & ~3); i++) store(w[i], Vf{}), store(h[i], Vf{});
    add_rows(ks, count, w, h, monomials.value[block], g, rows);
  }
  g.through = through;
  g.behind = behind;
}

// Fills p.rows of the tile's pairs that were composited (mask not 0); the rows of the others are left as they are.
inline void backward_tile(const SplatParams& p, int64_t tile, int group, const Monomials& monomials, Chunk& c) {
  const TileView t = tile_view(p, tile);
  if (t.begin == t.end) return;
  BlockGrad grad[kBlocks];
  for (int b = 0; b < kBlocks; b++) read_block(p, t, b, group, grad[b]);
  const int first = 7 * (group - 1), used = p.extra_count - first < 7 ? p.extra_count - first : 7;
  const bool rgb_only = group == 0 && !p.g_depth && !p.g_normal;
  const bool last_group = !p.g_extra || first + 7 >= p.extra_count;
  const int64_t chunks = (t.end - t.begin + kChunk - 1) / kChunk;
  for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
    const int64_t at = t.begin + chunk * kChunk;
    const int n = int(t.end - at < kChunk ? t.end - at : kChunk);
    float* extra = group > 0 ? p.extra_rows + at * p.extra_count + first : nullptr;
    const Rows rows = {p.rows + at * 16, extra, p.extra_count, used};
    if (group == 0) memset(rows.pair, 0, size_t(n) * 16 * sizeof(float));
    for (int k = 0; group > 0 && k < n; k++)
      memset(extra + k * int64_t(p.extra_count), 0, size_t(used) * sizeof(float));
    sort_into_blocks(p.masks + at, n, c);
    load_records(p, t, at, n, group, c);
    for (int b = 0; b < kBlocks; b++) {
      if (!c.length[b]) continue;
      const float x0 = t.x0 + b % 4 * 4 + 0.5f, y0 = t.y0 + b / 4 * 4 + 0.5f;
      const auto walk = rgb_only ? backward_block<3> : backward_block<7>;
      walk(c, b, int(at - t.begin), x0, y0, monomials, grad[b], rows);
    }
    for (int k = 0; last_group && k < n; k++)
      shift_moments(rows.pair + k * 16, t.x0 + 8.f - c.record[k][0], t.y0 + 8.f - c.record[k][1]);
  }
}

}  // namespace dl
