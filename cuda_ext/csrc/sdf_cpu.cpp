// SPDX-License-Identifier: Apache-2.0
// sdf_cpu.cpp - one parallel region over tiles of 16 x 16 samples; in a tile, packets of a register of rays.
// A pixel is made by one thread from its own samples: any thread count gives the same bits.
#include <vector>

#include "sdf.h"

namespace {

using namespace dl;

constexpr int kSide = 16;  // samples along a tile

struct Samples {  // of one tile
  float colour[3][kSide * kSide], normal[3][kSide * kSide], z[kSide * kSide];
  int part[kSide * kSide];  // -1: the ray missed
};

struct Lists {
  RowIndex all[kMaxRows], near[kMaxRows];
  int all_count = 0, near_count = 0;
  bool matter = false;  // does anything in `near` add matter?

  Lists(const SdfRow* rows, int count, const Cone& cone) {
    const float margin = blend_margin(rows, count);
    for (int i = 0; i < count; i++) {
      if (rows[i].kind == kNone) continue;
      all[all_count++] = RowIndex(i);
      const bool met = reaches(rows[i], cone, margin);
      matter |= met && (rows[i].op == kUnion || rows[i].op == kGroup);
      if (met) near[near_count++] = RowIndex(i);
      else if (rows[i].op == kGroup) near[near_count++] = RowIndex(~i);
    }
  }
};

// Colours of the winning rows, lane by lane: they are looked up in tables.
void look_up(const SdfRow* rows, const float* parts, int part_count, Vec3<Wf> p, Wf winner, uint32_t lanes,
             Surface<Wf>& s, int* part) {
  for (int i = 0; i < kWidth; i++) {
    if (!(lanes >> i & 1)) {
      s.rough[i] = 1.f;
      continue;
    }
    const SdfRow& row = rows[int(winner[i])];
    part[i] = known_part(row.part, part_count);
    const float* finish = parts + part[i] * kPart;
    const float mix = pattern(row, finish, {p.x[i], p.y[i], p.z[i]});
    for (int c = 0; c < 3; c++) s.colour[c][i] = finish[c] * (1.f - mix) + finish[3 + c] * mix;
    s.rough[i] = finish[8], s.metallic[i] = finish[9];
  }
}

void draw_packet(const SdfParams& p, const SdfRow* rows, const float* parts, const float* bound, const float* pose,
                 float focal, const Lists& lists, int left, int top, int at_x, int at_y, int side, Samples& out) {
  const Wf column = lane_column() + float(at_x), line = lane_line() + float(at_y);
  const float inverse = 1.f / float(p.supersample);
  const Wf x = (float(left) + (column + 0.5f) * inverse - 0.5f * float(p.width)) / focal;
  const Wf y = (0.5f * float(p.height) - float(top) - (line + 0.5f) * inverse) / focal;
  const Wf length = sqrt_(x * x + y * y + 1.f);
  const Vec3<Wf> d = {(pose[0] * x + pose[1] * y - pose[2]) / length, (pose[4] * x + pose[5] * y - pose[6]) / length,
                      (pose[8] * x + pose[9] * y - pose[10]) / length};
  const Vec3<float> o = {pose[3], pose[7], pose[11]};
  const Wf used = select((column < float(side)) & (line < float(side)), fill_lanes(1.f), Wf{});
  const Wf t = trace(rows, lists.near, lists.near_count, bound, o, d, used);
  const uint32_t lanes = mask_bits(t < kFar);
  if (!lanes) return;
  const Vec3<Wf> at = along_ray(o, d, select(t < kFar, t, fill_lanes(1.f)));
  Wf winner;
  distance<true>(rows, lists.near, lists.near_count, at, &winner);
  const Vec3<Wf> n = surface_normal(rows, lists.near, lists.near_count, at);
  const Wf sky = open_sky(rows, lists.all, lists.all_count, at, n, p.light.occlusion);
  Surface<Wf> surface = {};
  int part[kWidth];
  look_up(rows, parts, p.part_count, at, winner, lanes, surface, part);
  Wf radiance[3];
  shade(p.light, surface, n, {-d.x, -d.y, -d.z}, sky, radiance);
  const Wf z = t / length;
  for (int i = 0; i < kWidth; i++) {
    if (!(lanes >> i & 1)) continue;
    const int to = (at_y + i / kAcross) * kSide + at_x + i % kAcross;
    for (int c = 0; c < 3; c++) out.colour[c][to] = radiance[c][i];
    out.normal[0][to] = n.x[i], out.normal[1][to] = n.y[i], out.normal[2][to] = n.z[i];
    out.z[to] = z[i], out.part[to] = part[i];
  }
}

void resolve(const SdfParams& p, int64_t pixel, const Samples& in, int x, int y) {
  const int s = p.supersample;
  float sum[7] = {}, nearest = kFar;
  int hits = 0, part = -1;
  for (int j = 0; j < s; j++) {
    for (int i = 0; i < s; i++) {
      const int at = (y * s + j) * kSide + x * s + i;
      if (in.part[at] < 0) continue;
      hits++;
      for (int c = 0; c < 3; c++) sum[c] += in.colour[c][at], sum[3 + c] += in.normal[c][at];
      sum[6] += in.z[at];
      if (in.z[at] < nearest) nearest = in.z[at], part = in.part[at];
    }
  }
  const float mean = hits ? 1.f / float(hits) : 0.f, alpha = float(hits) / float(s * s);
  const float size = length3(sum[3], sum[4], sum[5]), unit = 1.f / max_(size, 1e-12f);
  for (int c = 0; c < 3; c++) {
    p.rgb[3 * pixel + c] = hits ? to_srgb(sum[c] * mean) * alpha : 0.f;
    p.normal[3 * pixel + c] = sum[3 + c] * unit;
  }
  p.alpha[pixel] = alpha, p.depth[pixel] = sum[6] * mean, p.part[pixel] = part;
}

void draw_tile(const SdfParams& p, int64_t view, int tile_x, int tile_y, int pixels) {
  const int64_t program = view / p.views;
  const SdfRow* rows = p.prepared + program * p.row_count;
  const float *pose = p.pose + 16 * view, *bound = p.bound + 4 * program, focal = p.focal[view];
  const int left = tile_x * pixels, top = tile_y * pixels, side = pixels * p.supersample;
  const int right = left + pixels < p.width ? left + pixels : p.width;
  const int bottom = top + pixels < p.height ? top + pixels : p.height;
  const Cone cone = tile_cone(pose, focal, float(p.height), float(p.width), float(left), float(top), float(left + pixels),
                              float(top + pixels));
  Samples samples;
  for (int& part : samples.part) part = -1;
  if (cone_meets(cone, bound, 0.f)) {
    const Lists lists(rows, p.row_count, cone);
    const float* parts = p.parts + program * p.part_count * kPart;
    for (int y = 0; lists.matter && y < side; y += kDown)
      for (int x = 0; x < side; x += kAcross)
        draw_packet(p, rows, parts, bound, pose, focal, lists, left, top, x, y, side, samples);
  }
  for (int y = top; y < bottom; y++)
    for (int x = left; x < right; x++) resolve(p, (view * p.height + y) * p.width + x, samples, x - left, y - top);
}

}  // namespace

DL_API void dl_sdf_draw(const dl::SdfParams* params, int threads) {
  SdfParams p = *params;
  std::vector<SdfRow> prepared(size_t(p.programs) * size_t(p.row_count));
  p.prepared = prepared.data();
  for (size_t i = 0; i < prepared.size(); i++) prepare(p.rows + kRow * i, prepared[i]);
  const int pixels = kSide / p.supersample;
  const int across = (p.width + pixels - 1) / pixels, down = (p.height + pixels - 1) / pixels;
  const int64_t jobs = int64_t(p.programs) * p.views * across * down;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 8)
  for (int64_t job = 0; job < jobs; job++)
    draw_tile(p, job / (across * down), int(job % across), int(job / across % down), pixels);
}

DL_API void dl_sdf_points(const dl::SdfPoints* params, int threads) {
  const SdfPoints p = *params;
  std::vector<SdfRow> rows(size_t(p.programs * p.row_count));
  for (size_t i = 0; i < rows.size(); i++) prepare(p.rows + kRow * i, rows[i]);
  constexpr int64_t kChunk = 1024;
  const int64_t chunks = (p.count + kChunk - 1) / kChunk;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t job = 0; job < p.programs * chunks; job++) {
    const int64_t program = job / chunks, first = job % chunks * kChunk;
    const int64_t last = first + kChunk < p.count ? first + kChunk : p.count;
    const SdfRow* mine = rows.data() + program * p.row_count;
    RowIndex list[kMaxRows];
    int listed = 0;
    for (int i = 0; i < p.row_count; i++)
      if (mine[i].kind != kNone) list[listed++] = RowIndex(i);
    for (int64_t at = first; at < last; at += kWidth) {
      Vec3<Wf> x = {};
      const int lanes = int(last - at < kWidth ? last - at : kWidth);
      const float* from = p.points + 3 * (program * p.count + at);
      for (int i = 0; i < lanes; i++) x.x[i] = from[3 * i], x.y[i] = from[3 * i + 1], x.z[i] = from[3 * i + 2];
      Wf winner;
      const Wf d = distance<true>(mine, list, listed, x, &winner);
      for (int i = 0; i < lanes; i++) {
        p.gap[program * p.count + at + i] = d[i];
        p.part[program * p.count + at + i] = mine[int(winner[i])].part;
      }
    }
  }
}
