// SPDX-License-Identifier: Apache-2.0
// antialias.h - finds the silhouette between two pixels and blends across it; compiled for CPU and CUDA.
//
// Half-edge h = 3 t + i is the side of triangle t opposite its corner i, from corner i+1 to corner i+2 (mod 3). Axis 0 is the
// pair (pixel, pixel to the right), axis 1 (pixel, pixel below). The specification is cuda_ext/reference/antialias.py.
#pragma once
#include "common.h"

namespace dl {

constexpr int kMaxWalk = 64;          // triangles crossed between two pixel centres
constexpr uint8_t kFront = 8, kBack = 16;  // bits of a triangle's state; bits 0..2: half-edge i is a silhouette

struct AntialiasParams {
  const float* clip;           // [B, V, 4]
  const int32_t* triangles;    // [T, 3]
  const int32_t* neighbours;   // [T, 3] half-edge on the other side, -1 for none; null where not needed
  int64_t views, vertices, count, height, width, channels;
};

DL_HD bool valid_triangle(const AntialiasParams& p, int64_t t) {
  for (int i = 0; i < 3; ++i)
    if (p.triangles[3 * t + i] < 0 || p.triangles[3 * t + i] >= p.vertices) return false;
  return true;
}

// On which side of triangle t the eye is: kFront, kBack, or 0 (exactly edge-on, or not finite).
DL_HD uint8_t facing(const AntialiasParams& p, int64_t view, int64_t t) {
  if (!valid_triangle(p, t)) return 0;
  const float* v[3];
  for (int i = 0; i < 3; ++i) v[i] = p.clip + 4 * (view * p.vertices + p.triangles[3 * t + i]);
  const double x0 = v[1][0], y0 = v[1][1], w0 = v[1][3], x1 = v[2][0], y1 = v[2][1], w1 = v[2][3];
  const double det = v[0][0] * (y0 * w1 - w0 * y1) + v[0][1] * (w0 * x1 - x0 * w1) + v[0][3] * (x0 * y1 - y0 * x1);
  return det - det != 0 ? 0 : det > 0 ? kFront : det < 0 ? kBack : 0;
}

// The surface ends or folds over at half-edge h. state: one byte per triangle of this view, with kFront and kBack set.
DL_HD bool is_silhouette(const AntialiasParams& p, const uint8_t* state, int64_t h) {
  const int64_t other = p.neighbours[h];
  if (other < 0 || other >= 3 * p.count) return true;
  const int64_t t = h / 3, i = h % 3, t2 = other / 3, i2 = other % 3;
  const bool opposite = p.triangles[3 * t + (i + 1) % 3] == p.triangles[3 * t2 + (i2 + 2) % 3];  // same winding
  const uint8_t a = state[t] & (kFront | kBack), b = state[t2] & (kFront | kBack);
  return a == 0 || b == 0 || (a == b) != opposite;
}

// A clip position about the centre of the pixel in front, in homogeneous pixel coordinates.
struct Seen {
  float x, y, w;
};

// Where the pair's line of sight starts: the centre of the pixel in front. The pair's first pixel is (row, column); back
// is 1 when its second pixel is the one in front.
struct Eye {
  float half_x, half_y, scale_x, scale_y;
  float sign;   // direction to the other pixel along the axis
  int axis;
};

DL_HD Eye eye_at(const AntialiasParams& p, int64_t row, int64_t column, int axis, int back) {
  const float sx = 0.5f * p.width, sy = 0.5f * p.height;
  return {sx - 0.5f - float(column + (axis == 0 ? back : 0)), sy - 0.5f - float(row + (axis == 1 ? back : 0)),
          sx, sy, back ? -1.f : 1.f, axis};
}

DL_HD Seen see(const Eye& e, const float* v) {
  return {e.scale_x * v[0] + e.half_x * v[3], e.half_y * v[3] - e.scale_y * v[1], v[3]};
}

// The line through two corners: its value at the centre, its slope towards the pair's other pixel (along) and in the
// other axis (across). It crosses at value / -along of the way.
struct Line {
  float value, along, across;
};

DL_HD Line line_through(const Eye& e, const Seen& a, const Seen& b) {
  const float dx = a.y * b.w - a.w * b.y, dy = a.w * b.x - a.x * b.w;
  return {a.x * b.y - a.y * b.x, (e.axis == 0 ? dx : dy) * e.sign, e.axis == 0 ? dy : dx};
}

DL_HD const float* corner(const AntialiasParams& p, int64_t view, int64_t t, int i) {
  return p.clip + 4 * (view * p.vertices + p.triangles[3 * t + i]);
}

// 0, or 1 + 2 h + back: walks over the surface in front from its pixel towards the other until the surface ends.
DL_HD int32_t find_silhouette(const AntialiasParams& p, const uint8_t* state, const int32_t* triangle, const float* depth,
                              int64_t view, int64_t row, int64_t column, int axis) {
  const int64_t first = (view * p.height + row) * p.width + column, second = first + (axis == 0 ? 1 : p.width);
  const int64_t id1 = triangle[first], id2 = triangle[second];
  if (id1 == id2 || id1 > p.count || id2 > p.count) return 0;
  const int back = id1 <= 0 || (id2 > 0 && depth[second] < depth[first]);
  int64_t t = (back ? id2 : id1) - 1;
  const int64_t other = (back ? id1 : id2) - 1;
  if (t < 0 || !valid_triangle(p, t)) return 0;
  if (other >= 0)
    for (int i = 0; i < 3; ++i)
      if (p.neighbours[3 * t + i] >= 0 && p.neighbours[3 * t + i] / 3 == other && !(state[t] >> i & 1)) return 0;
  const Eye eye = eye_at(p, row, column, axis, back);
  int64_t entry = -1;
  for (int step = 0; step < kMaxWalk; ++step) {
    const float inward = state[t] & kFront ? -1.f : state[t] & kBack ? 1.f : 0.f;  // the picture's y is flipped
    Seen c[3];
    for (int i = 0; i < 3; ++i) c[i] = see(eye, corner(p, view, t, i));
    int exit = -1;
    float nearest = 0.f;
    Line edge = {0.f, 0.f, 0.f};
    for (int i = 0; i < 3; ++i) {
      const Line l = line_through(eye, c[i == 2 ? 0 : i + 1], c[i == 0 ? 2 : i - 1]);
      if (i == entry || !(l.along * inward < 0.f)) continue;
      const float at = l.value / -l.along;
      if (exit >= 0 && !(at < nearest)) continue;
      exit = i, nearest = at, edge = l;
    }
    if (exit < 0 || !(nearest <= 1.f)) return 0;
    if (state[t] >> exit & 1) {
      const float along = fabsf(edge.along), across = fabsf(edge.across);
      return (axis == 0 ? along >= across : along > across) ? int32_t(1 + 2 * (3 * t + exit) + back) : 0;
    }
    const int64_t h = p.neighbours[3 * t + exit];
    t = h / 3, entry = h % 3;
    if (t == other) return 0;
  }
  return 0;
}

// What a code says: the edge's corners and how much colour crosses it.
struct Share {
  Eye eye;
  Seen a, b;            // the edge's corners
  float along;          // of its line
  int64_t start, end;   // their rows of clip
  float raw, amount;    // crossing D before clamping; D - 1/2
  int back;
  bool to_second;       // the pair's second pixel receives it
};

DL_HD Share share_of(const AntialiasParams& p, int32_t code, int64_t view, int64_t row, int64_t column, int axis) {
  Share s;
  const int64_t h = (code - 1) / 2, t = h / 3, i = h % 3;
  s.back = (code - 1) & 1;
  s.start = view * p.vertices + p.triangles[3 * t + (i + 1) % 3];
  s.end = view * p.vertices + p.triangles[3 * t + (i + 2) % 3];
  s.eye = eye_at(p, row, column, axis, s.back);
  s.a = see(s.eye, p.clip + 4 * s.start), s.b = see(s.eye, p.clip + 4 * s.end);
  const Line line = line_through(s.eye, s.a, s.b);
  s.along = line.along;
  s.raw = line.value / -line.along;
  s.amount = min_(max_(s.raw, 0.f), 1.f) - 0.5f;
  s.to_second = (s.amount > 0.f) != (s.back != 0);
  return s;
}

// Gradient to a clip position from that to where it is seen.
DL_HD void see_backward(const Eye& e, float x, float y, float w, float* grad) {
  grad[0] = e.scale_x * x, grad[1] = -e.scale_y * y, grad[2] = 0.f, grad[3] = w + e.half_x * x + e.half_y * y;
}

// Gradient of D to the two corners [4] each.
DL_HD void share_backward(const Share& s, float grad, float* start, float* end) {
  const bool free = s.raw >= 0.f && s.raw <= 1.f;
  const float g = free ? -grad / s.along : 0.f, along = g * s.raw * s.eye.sign;  // to the value; to dx or dy
  const float gx = s.eye.axis == 0 ? along : 0.f, gy = s.eye.axis == 0 ? 0.f : along;
  const Seen &a = s.a, &b = s.b;
  see_backward(s.eye, g * b.y - gy * b.w, -g * b.x + gx * b.w, gy * b.x - gx * b.y, start);
  see_backward(s.eye, -g * a.y + gy * a.w, g * a.x - gx * a.w, gx * a.y - gy * a.x, end);
}

}  // namespace dl
