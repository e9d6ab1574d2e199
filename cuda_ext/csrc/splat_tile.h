// SPDX-License-Identifier: Apache-2.0
// splat_tile.h - CPU rasteriser of one tile, forward and backward.
//
// A tile is 16 x 16 pixels: 16 blocks of 4 x 4, and a block is one vector of 16 lanes. A tile's splats are taken in
// chunks: each splat is tested exactly against all 16 blocks at once (lanes are blocks), which gives every block its own
// short list; then a block walks its list with its pixels in registers (lanes are pixels).
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
typedef float Vh __attribute__((vector_size(32), may_alias));

struct Chunk {
  alignas(64) float record[kChunk][16];  // SplatRecord; for further groups of channels, those replace the features
  uint16_t list[kBlocks][kChunk];
  int length[kBlocks];
};

struct TileView {
  int view, x0, y0;                  // first pixel
  int64_t begin, end;                // pairs
};

DL_HD TileView tile_view(const SplatParams& p, int64_t tile) {
  const int across = (p.width + kTile - 1) / kTile, down = (p.height + kTile - 1) / kTile;
  const int inside = int(tile % (int64_t(across) * down));
  return {int(tile / (int64_t(across) * down)), inside % across * kTile, inside / across * kTile, p.starts[tile], p.starts[tile + 1]};
}

// Channels: group 0 is rgb, depth, normal; group g > 0 is extra channels 7 (g - 1) ... 7 g - 1.
inline void load_records(const SplatParams& p, const TileView& t, int64_t at, int n, int group, Chunk& c) {
  const SplatRecord* records = p.records + int64_t(t.view) * p.count;
  for (int k = 0; k < n; k++) {
    if (k + 8 < n) __builtin_prefetch(records + p.pairs[at + k + 8]);
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
  const float a = r[2], b = r[3], c = r[4], slope_y = -0.5f * b / c, slope_x = -0.5f * b / a;
  const Vf lx = left - r[0], ly = top - r[1], hx = lx + 3.f, hy = ly + 3.f;
  const Vf x1 = clamp_(Vf{}, lx, hx), y2 = clamp_(Vf{}, ly, hy);
  const Vf y1 = clamp_(slope_y * x1, ly, hy), x2 = clamp_(slope_x * y2, lx, hx);
  const Vf p1 = x1 * (a * x1 + b * y1) + c * y1 * y1, p2 = x2 * (a * x2 + b * y2) + c * y2 * y2;
  return mask_bits(min_(p1, p2) <= r[5] - kLog2MinAlpha + kSlack);
}

DL_HD Vf lane_x() { return to_float(lane_index() & 3); }
DL_HD Vf lane_y() { return to_float(lane_index() >> 2); }

inline void sort_into_blocks(const uint16_t* masks, int n, Chunk& c) {
  for (int b = 0; b < kBlocks; b++) c.length[b] = 0;
  for (int k = 0; k < n; k++)
    for (uint32_t m = masks[k]; m; m &= m - 1) {
      const int b = __builtin_ctz(m);
      c.list[b][c.length[b]++] = uint16_t(k);
    }
}

struct BlockState {
  Vf through, sum[7];
  Vi last;
};

// log2(alpha) of one splat on 16 pixels.
DL_HD Vf exponent(const float* r, Vf dx, Vf dy) { return (r[5] - dx * (r[2] * dx + r[3] * dy)) - (r[4] * dy) * dy; }

inline void forward_block(const Chunk& c, int block, int rank, Vf px, Vf py, BlockState& s) {
  Vf through = s.through, sum[7];
  for (int f = 0; f < 7; f++) sum[f] = s.sum[f];
  Vi last = s.last;
  const int length = c.length[block];
  for (int i = 0; i < length; i++) {
    const int k = c.list[block][i];
    const float* r = c.record[k];
    const Vf e = exponent(r, px - r[0], py - r[1]);
    const Vi on = (e >= kLog2MinAlpha) & (through >= kMinTransmittance);
    const Vf alpha = min_(exp2_(e), splat_f(kMaxAlpha));
    const Vf weight = from_bits(bits(alpha * through) & on);
    through -= weight;
    for (int f = 0; f < 7; f++) sum[f] += weight * r[6 + f];
    last = on ? splat_i(rank + k) : last;
    if ((i & 7) == 7 && !any(through >= kMinTransmittance)) break;
  }
  s.through = through;
  for (int f = 0; f < 7; f++) s.sum[f] = sum[f];
  s.last = last;
}

inline void write_block(const SplatParams& p, const TileView& t, int block, int group, const BlockState& s) {
  const int x0 = t.x0 + block % 4 * 4, y0 = t.y0 + block / 4 * 4;
  for (int lane = 0; lane < kLanes; lane++) {
    const int x = x0 + lane % 4, y = y0 + lane / 4;
    if (x >= p.width || y >= p.height) continue;
    const int64_t at = (int64_t(t.view) * p.height + y) * p.width + x;
    if (group > 0) {
      for (int f = 0, channel = 7 * (group - 1); f < 7 && channel < p.extra_count; f++, channel++)
        p.extra_image[at * p.extra_count + channel] = s.sum[f][lane];
      continue;
    }
    const float through = s.through[lane], alpha = 1.f - through;
    for (int i = 0; i < 3; i++) {
      p.rgb[at * 3 + i] = s.sum[i][lane] + (p.background ? through * p.background[t.view * 3 + i] : 0.f);
      p.normal[at * 3 + i] = s.sum[4 + i][lane];
    }
    p.alpha[at] = alpha;
    p.depth[at] = alpha > 0.f ? s.sum[3][lane] / alpha : 0.f;
    p.through[at] = through;
    p.last[at] = s.last[lane];
  }
}

inline void forward_tile(const SplatParams& p, int64_t tile, int group, Chunk& c) {
  const TileView t = tile_view(p, tile);
  const Vf block_x = t.x0 + 0.5f + 4.f * lane_x(), block_y = t.y0 + 0.5f + 4.f * lane_y();
  BlockState state[kBlocks];
  for (auto& s : state) {
    s.through = splat_f(1.f);
    for (auto& v : s.sum) v = Vf{};
    s.last = splat_i(-1);
  }
  uint32_t alive = 0xffff;
  for (int64_t at = t.begin; at < t.end; at += kChunk) {
    const int n = int(t.end - at < kChunk ? t.end - at : kChunk);
    if (!alive) {
      if (group == 0) memset(p.masks + at, 0, size_t(n) * sizeof(uint16_t));
      continue;
    }
    load_records(p, t, at, n, group, c);
    if (group == 0)
      for (int k = 0; k < n; k++) p.masks[at + k] = uint16_t(blocks_reached(c.record[k], block_x, block_y) & alive);
    sort_into_blocks(p.masks + at, n, c);
    for (int b = 0; b < kBlocks; b++) {
      if (!c.length[b]) continue;
      const Vf px = t.x0 + b % 4 * 4 + 0.5f + lane_x(), py = t.y0 + b / 4 * 4 + 0.5f + lane_y();
      forward_block(c, b, int(at - t.begin), px, py, state[b]);
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

inline void read_block(const SplatParams& p, const TileView& t, int block, int group, BlockGrad& g) {
  const int x0 = t.x0 + block % 4 * 4, y0 = t.y0 + block / 4 * 4;
  memset(g.by_pixel, 0, sizeof g.by_pixel);
  g.through = splat_f(1.f), g.behind = Vf{}, g.last = splat_i(-1);
  for (int lane = 0; lane < kLanes; lane++) {
    const int x = x0 + lane % 4, y = y0 + lane / 4;
    if (x >= p.width || y >= p.height) continue;
    const int64_t at = (int64_t(t.view) * p.height + y) * p.width + x;
    float* out = g.by_pixel[lane];
    g.through[lane] = p.through[at];
    g.last[lane] = p.last[at];
    if (group > 0) {
      for (int f = 0, channel = 7 * (group - 1); f < 7 && channel < p.extra_count; f++, channel++)
        out[f] = p.g_extra[at * p.extra_count + channel];
      continue;
    }
    float g_alpha = p.g_alpha ? p.g_alpha[at] : 0.f, g_through = 0.f;
    const float alpha = 1.f - p.through[at];
    for (int i = 0; i < 3; i++) {
      out[i] = p.g_rgb ? p.g_rgb[at * 3 + i] : 0.f;
      out[4 + i] = p.g_normal ? p.g_normal[at * 3 + i] : 0.f;
      if (p.background) g_through += out[i] * p.background[t.view * 3 + i];
    }
    if (p.g_depth && alpha > 0.f) {
      out[3] = p.g_depth[at] / alpha;
      g_alpha -= out[3] * p.depth[at];
    }
    g.behind[lane] = p.through[at] * (g_through - g_alpha);
  }
  for (int f = 0; f < 7; f++)
    for (int lane = 0; lane < kLanes; lane++) g.by_channel[f][lane] = g.by_pixel[lane][f];
}

// (1, x, y, xx, xy, yy, 0, 0) of the pixel centres, from the block's centre.
struct Monomials {
  alignas(64) float value[kLanes][8];
  Monomials() {
    for (int i = 0; i < kLanes; i++) {
      const float x = i % 4 - 1.5f, y = i / 4 - 1.5f, m[8] = {1.f, x, y, x * x, x * y, y * y, 0.f, 0.f};
      memcpy(value[i], m, sizeof m);
    }
  }
};

// Adds to the rows of `count` <= kBatch splats: moments of h about the splat's centre, and the features' gradients.
inline void add_rows(const Chunk& c, const uint16_t* ks, int count, const float (*w)[kLanes], const float (*h)[kLanes],
                     const Monomials& monomials, const BlockGrad& g, float cx, float cy, float* rows, float* extra_row0,
                     int extra_count, int extra_used) {
  for (int i = 0; i < count; i += 4) {
    Vh feature[4] = {}, moment[4] = {};
    for (int px = 0; px < kLanes; px++) {
      Vh gradient, monomial;
      memcpy(&gradient, g.by_pixel[px], sizeof gradient);
      memcpy(&monomial, monomials.value[px], sizeof monomial);
      for (int j = 0; j < 4; j++) {
        feature[j] += w[i + j][px] * gradient;
        moment[j] += h[i + j][px] * monomial;
      }
    }
    for (int j = 0; j < 4 && i + j < count; j++) {
      const int k = ks[-(i + j)];
      const float dx = cx - c.record[k][0], dy = cy - c.record[k][1];
      const Vh m = moment[j];
      const float mx = m[1] + dx * m[0], my = m[2] + dy * m[0];
      const Vh moved = {m[0], mx, my, m[3] + dx * (m[1] + mx), m[4] + dx * m[2] + dy * mx, m[5] + dy * (m[2] + my), 0.f, 0.f};
      float* row = rows + int64_t(k) * 16;
      Vh old;
      memcpy(&old, row, sizeof old);
      old += moved;
      memcpy(row, &old, sizeof old);
      if (extra_row0) {
        for (int f = 0; f < extra_used; f++) extra_row0[int64_t(k) * extra_count + f] += feature[j][f];
      } else {
        memcpy(&old, row + 8, sizeof old);
        old += feature[j];
        memcpy(row + 8, &old, sizeof old);
      }
    }
  }
}

inline void backward_block(const Chunk& c, int block, int rank, float x0, float y0, const Monomials& monomials,
                           BlockGrad& g, float* rows, float* extra_row0, int extra_count, int extra_used) {
  alignas(64) float w[kBatch][kLanes], h[kBatch][kLanes];
  const Vf px = x0 + lane_x(), py = y0 + lane_y();
  Vf through = g.through, behind = g.behind;
  for (int end = c.length[block]; end > 0; end -= kBatch) {
    const int count = end < kBatch ? end : kBatch;
    const uint16_t* ks = c.list[block] + end - 1;  // walked downwards
    for (int i = 0; i < count; i++) {
      const int k = ks[-i];
      const float* r = c.record[k];
      const Vf e = exponent(r, px - r[0], py - r[1]);
      const Vi on = (e >= kLog2MinAlpha) & (rank + k <= g.last);
      const Vf free = exp2_(e);
      const Vf alpha = from_bits(bits(min_(free, splat_f(kMaxAlpha))) & on);
      const Vf keep = 1.f / (1.f - alpha);
      const Vf before = through * keep, weight = alpha * before;
      Vf colour = r[6] * g.by_channel[0];
      for (int f = 1; f < 7; f++) colour += r[6 + f] * g.by_channel[f];
      const Vf slope = alpha * (before * colour - behind * keep);  // dL / d log(alpha)
      store(w[i], weight);
      store(h[i], from_bits(bits(slope) & (free < kMaxAlpha)));
      behind += weight * colour;
      through = before;
    }
    for (int i = count; i < ((count + 3) & ~3); i++) store(w[i], Vf{}), store(h[i], Vf{});
    add_rows(c, ks, count, w, h, monomials, g, x0 + 1.5f, y0 + 1.5f, rows, extra_row0, extra_count, extra_used);
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
  const int64_t chunks = (t.end - t.begin + kChunk - 1) / kChunk;
  for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
    const int64_t at = t.begin + chunk * kChunk;
    const int n = int(t.end - at < kChunk ? t.end - at : kChunk);
    float* rows = p.rows + at * 16;
    float* extra_row0 = group > 0 ? p.extra_rows + at * p.extra_count + first : nullptr;
    if (group == 0) memset(rows, 0, size_t(n) * 16 * sizeof(float));
    for (int k = 0; group > 0 && k < n; k++) memset(extra_row0 + k * int64_t(p.extra_count), 0, size_t(used) * sizeof(float));
    sort_into_blocks(p.masks + at, n, c);
    load_records(p, t, at, n, group, c);
    for (int b = 0; b < kBlocks; b++)
      if (c.length[b])
        backward_block(c, b, int(at - t.begin), t.x0 + b % 4 * 4 + 0.5f, t.y0 + b / 4 * 4 + 0.5f, monomials, grad[b], rows,
                       extra_row0, p.extra_count, used);
  }
}

}  // namespace dl
