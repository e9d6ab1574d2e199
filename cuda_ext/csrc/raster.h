// SPDX-License-Identifier: Apache-2.0
// raster.h - one vertex, one triangle, one pixel of the rasteriser; compiled by the host compiler, nvcc and NVRTC.
//
// Coverage is integer arithmetic on corners snapped to 1/256 pixel, with the top-left rule: exact, and the same here,
// on CUDA and in the twin. Everything before the snap is done in double for the same reason. Barycentrics come from the
// unsnapped clip positions. Homogeneous pixel coordinates: X = W/2 (x + w), Y = H/2 (w - y); X/w, Y/w are pixels, row 0
// is the top. The specification, with the reasons, is cuda_ext/reference/raster.py.
#pragma once
#include "common.h"

namespace dl {

constexpr int kSub = 256;                // steps per pixel of a snapped coordinate
constexpr double kGuard = 1 << 20;       // pixels; beyond it a triangle is clipped, so that edge functions fit 64 bits
constexpr double kMinW = 1e-8;
constexpr int kPlanes = 7;               // w > 0, near, far, four guard planes
constexpr int kMaxPolygon = 3 + kPlanes;
constexpr int kBroken = 1 << kPlanes;    // outside mask of a vertex that is not finite

struct RasterParams {
  const float* clip;         // [B, V, 4] clip-space corners
  const int32_t* triangles;  // [T, 3] rows of clip
  int64_t views, vertices, count, height, width;
};

struct Hom {
  double x, y, z, w;
};

struct Corner {
  int x, y;     // snapped, in 1/256 pixel; set when mask == 0
  float z;      // z/w
  int mask;     // bit k: outside plane k; kBroken
};

DL_HD Hom to_pixel(const float* clip, int height, int width) {
  const double x = clip[0], y = clip[1], z = clip[2], w = clip[3];
  return {(x + w) * (0.5 * width), (w - y) * (0.5 * height), z, w};
}

DL_HD double plane_distance(const Hom& v, int k) {
  const double guard = kGuard * v.w;
  switch (k) {
    case 0: return v.w - kMinW;
    case 1: return v.w + v.z;
    case 2: return v.w - v.z;
    case 3: return guard - v.x;
    case 4: return guard + v.x;
    case 5: return guard - v.y;
    default: return guard + v.y;
  }
}

// A point near plane k, put on it exactly: coordinates 1e30 apart leave nothing of it to round-off.
DL_HD Hom onto_plane(Hom v, int k) {
  switch (k) {
    case 0: v.w = kMinW; break;
    case 1: v.z = -v.w; break;
    case 2: v.z = v.w; break;
    case 3: v.x = kGuard * v.w; break;
    case 4: v.x = -kGuard * v.w; break;
    case 5: v.y = kGuard * v.w; break;
    default: v.y = -kGuard * v.w;
  }
  return v;
}

// rint rounds halves to even, as torch.round does.
DL_HD Corner snap(const Hom& v) {
  const double inverse = 1.0 / v.w;
  return {int(rint(v.x * inverse * kSub)), int(rint(v.y * inverse * kSub)), float(v.z * inverse), 0};
}

DL_HD Corner project(const float* clip, int height, int width) {
  if (!(finite_(clip[0]) && finite_(clip[1]) && finite_(clip[2]) && finite_(clip[3]))) return {0, 0, 0.f, kBroken};
  const Hom v = to_pixel(clip, height, width);
  int mask = 0;
  for (int k = 0; k < kPlanes; ++k) mask |= (plane_distance(v, k) < 0) << k;
  if (mask) return {0, 0, 0.f, mask};
  return snap(v);
}

// Sutherland-Hodgman in place against all planes; returns the number of corners left. A cut edge is walked from its
// inner to its outer end, so two triangles that share it get bit-equal new corners.
DL_HD int clip_polygon(Hom* polygon) {
  int count = 3;
  Hom kept[kMaxPolygon];
  for (int k = 0; k < kPlanes; ++k) {
    int n = 0;
    for (int i = 0; i < count; ++i) {
      const Hom a = polygon[i], b = polygon[i + 1 < count ? i + 1 : 0];
      const double da = plane_distance(a, k), db = plane_distance(b, k);
      if (da >= 0 && n < kMaxPolygon) kept[n++] = a;
      if ((da >= 0) != (db >= 0) && n < kMaxPolygon) {
        const Hom in = da >= 0 ? a : b, out = da >= 0 ? b : a;
        const double inner = da >= 0 ? da : db, outer = da >= 0 ? db : da;
        const double s = -outer / (inner - outer), t = inner / (inner - outer);  // weights without cancellation
        kept[n++] = onto_plane({s * in.x + t * out.x, s * in.y + t * out.y, s * in.z + t * out.z, s * in.w + t * out.w}, k);
      }
    }
    count = n;
    for (int i = 0; i < count; ++i) polygon[i] = kept[i];
  }
  return count;
}

// What the loops over pixels need of a triangle. Edge i goes from corner i to corner i+1, the inside is E >= 0.
struct Fill {
  int x[3], y[3];        // corners, turned so that the area is positive
  int dx[3], dy[3];      // edge vectors
  int bias[3];           // 0 for a left or horizontal top edge, else -1: the rule for centres exactly on an edge
  float z, zx, zy;       // z/w at corner 0 and its change per pixel
  float z_low, z_high;
};

// False when the snapped triangle has no area.
DL_HD bool setup(Corner a, Corner b, Corner c, Fill& f) {
  int64_t area = int64_t(b.x - a.x) * (c.y - a.y) - int64_t(b.y - a.y) * (c.x - a.x);
  if (area == 0) return false;
  if (area < 0) {
    const Corner swap = b;
    b = c, c = swap, area = -area;
  }
  const Corner p[3] = {a, b, c};
  for (int i = 0; i < 3; ++i) {
    const Corner& q = p[i == 2 ? 0 : i + 1];
    f.x[i] = p[i].x, f.y[i] = p[i].y;
    f.dx[i] = q.x - p[i].x, f.dy[i] = q.y - p[i].y;
    f.bias[i] = (f.dy[i] < 0 || (f.dy[i] == 0 && f.dx[i] > 0)) - 1;
  }
  const double scale = kSub / double(area), zb = double(b.z) - a.z, zc = double(c.z) - a.z;
  f.z = a.z;
  f.zx = float((zb * (c.y - a.y) - zc * (b.y - a.y)) * scale);
  f.zy = float((zc * (b.x - a.x) - zb * (c.x - a.x)) * scale);
  f.z_low = min_(a.z, min_(b.z, c.z));
  f.z_high = max_(a.z, max_(b.z, c.z));
  return true;
}

// Edge function i, biased, at the centre of pixel (column, row): >= 0 inside.
DL_HD int64_t edge_at(const Fill& f, int i, int column, int row) {
  const int64_t px = int64_t(column) * kSub + kSub / 2 - f.x[i], py = int64_t(row) * kSub + kSub / 2 - f.y[i];
  return f.dx[i] * py - f.dy[i] * px + f.bias[i];
}

DL_HD float depth_at(const Fill& f, int column, int row) {
  const float px = float(column * kSub + kSub / 2 - f.x[0]) * (1.f / kSub);
  const float py = float(row * kSub + kSub / 2 - f.y[0]) * (1.f / kSub);
  return min_(max_(f.z + f.zy * py + f.zx * px, f.z_low), f.z_high);
}

struct Box {
  int c0, c1, r0, r1;  // first and last column and row whose centre may be inside; empty when c0 > c1 or r0 > r1
};

DL_HD int ceil_pixel(int x) { return (x - kSub / 2 + kSub - 1) >> 8; }   // >> rounds down for negative x too
DL_HD int floor_pixel(int x) { return (x - kSub / 2) >> 8; }

DL_HD int imin(int a, int b) { return a < b ? a : b; }
DL_HD int imax(int a, int b) { return a > b ? a : b; }

DL_HD Box box_of(const Corner& a, const Corner& b, const Corner& c, int height, int width) {
  Box box = {ceil_pixel(imin(a.x, imin(b.x, c.x))), floor_pixel(imax(a.x, imax(b.x, c.x))),
             ceil_pixel(imin(a.y, imin(b.y, c.y))), floor_pixel(imax(a.y, imax(b.y, c.y)))};
  box.c0 = imax(box.c0, 0), box.r0 = imax(box.r0, 0);
  box.c1 = imin(box.c1, width - 1), box.r1 = imin(box.r1, height - 1);
  return box;
}

//------------------------------------------------------------------------------------------------------------------
// Barycentrics of one pixel (T = float), or of a block of pixels (T = a SIMD vector).

template <class T>
struct Corners3 {
  T x[3], y[3], z[3], w[3];  // clip space
};

template <class T>
struct Weights {
  T x[3], y[3];       // homogeneous pixel coordinates relative to the centre
  T b[3];             // perspective-correct weights
  T side, inverse;    // sign of the area; 1 / sum, 0 when there is nothing to divide by
  T gate[3];          // 1 where the weight was not cut at 0
  T depth, over_w;    // z/w; 1 / (sum b w), 0 when there is nothing to divide by
};

template <class T>
struct PixelFrame {
  T half_x, half_y;      // W/2 - 0.5 - column, H/2 - 0.5 - row
  T scale_x, scale_y;    // W/2, H/2
};

template <class T>
DL_HD Weights<T> weights(const Corners3<T>& c, const PixelFrame<T>& p) {
  Weights<T> o;
  const T zero{}, one = zero + 1.f, tiny = zero + 1.2e-38f;  // what is smaller has no finite inverse
  for (int i = 0; i < 3; ++i) {
    o.x[i] = p.scale_x * c.x[i] + p.half_x * c.w[i];
    o.y[i] = p.half_y * c.w[i] - p.scale_y * c.y[i];
  }
  T area[3];
  for (int i = 0; i < 3; ++i) {
    const int j = (i + 1) % 3, k = (i + 2) % 3;
    area[i] = o.x[j] * o.y[k] - o.y[j] * o.x[k];
  }
  o.side = select(area[0] + area[1] + area[2] < zero, -one, one);
  T total = zero;
  for (int i = 0; i < 3; ++i) {
    o.b[i] = area[i] * o.side;
    o.gate[i] = select(o.b[i] < zero, zero, one);
    o.b[i] = select(o.b[i] < zero, zero, o.b[i]);
    total = total + o.b[i];
  }
  // total - total is not 0 for NaN and Inf.
  const T usable = select(total - total == zero, select(tiny < total, one, zero), zero);
  o.inverse = select(zero < usable, one / select(zero < usable, total, one), zero);
  for (int i = 0; i < 3; ++i) {
    o.b[i] = select(zero < usable, o.b[i] * o.inverse, i == 2 ? one : zero);
    o.x[i] = select(zero < usable, o.x[i], zero);  // overflowed: no Inf * 0 in the gradient
    o.y[i] = select(zero < usable, o.y[i], zero);
  }
  T z = zero, w = zero;
  for (int i = 0; i < 3; ++i) z = z + o.b[i] * c.z[i], w = w + o.b[i] * c.w[i];
  const T sound = select(z - z == zero, select(w - w == zero, select(tiny < w, one, zero), zero), zero);
  o.over_w = select(zero < sound, one / select(zero < sound, w, one), zero);
  o.depth = select(zero < sound, z * o.over_w, one);
  return o;
}

// (du/dx, du/dy, dv/dx, dv/dy) per pixel, y down.
template <class T>
DL_HD void weight_slopes(const Corners3<T>& c, const Weights<T>& o, T* slope) {
  const T zero{};
  T dx[3], dy[3];
  const T scale = o.side * o.inverse;
  for (int i = 0; i < 3; ++i) {
    const int j = (i + 1) % 3, k = (i + 2) % 3;
    dx[i] = (o.y[j] * c.w[k] - c.w[j] * o.y[k]) * scale;
    dy[i] = (c.w[j] * o.x[k] - o.x[j] * c.w[k]) * scale;
  }
  const T sum_x = dx[0] + dx[1] + dx[2], sum_y = dy[0] + dy[1] + dy[2];
  slope[0] = dx[0] - o.b[0] * sum_x, slope[1] = dy[0] - o.b[0] * sum_y;
  slope[2] = dx[1] - o.b[1] * sum_x, slope[3] = dy[1] - o.b[1] * sum_y;
  for (int i = 0; i < 4; ++i) slope[i] = select(slope[i] - slope[i] == zero, slope[i], zero);  // overflowed
}

// Gradient of (u, v, depth) to the twelve clip coordinates.
template <class T>
DL_HD Corners3<T> weights_backward(const Corners3<T>& c, const PixelFrame<T>& p, const Weights<T>& o, T gu, T gv, T gd) {
  Corners3<T> g;
  const T zero{};
  const T gz = gd * o.over_w, gw = -gz * o.depth;
  T gb[3];
  T mean = zero;
  for (int i = 0; i < 3; ++i) {
    gb[i] = gz * c.z[i] + gw * c.w[i];
    if (i == 0) gb[i] = gb[i] + gu;
    if (i == 1) gb[i] = gb[i] + gv;
    mean = mean + gb[i] * o.b[i];
    g.z[i] = gz * o.b[i];
    g.w[i] = gw * o.b[i];
    g.x[i] = g.y[i] = zero;
  }
  const T scale = o.side * o.inverse;
  for (int i = 0; i < 3; ++i) {
    const int j = (i + 1) % 3, k = (i + 2) % 3;
    const T ga = select(zero < o.gate[i] * o.inverse, (gb[i] - mean) * scale, zero);
    g.x[j] = g.x[j] + ga * o.y[k];
    g.y[k] = g.y[k] + ga * o.x[j];
    g.y[j] = g.y[j] - ga * o.x[k];
    g.x[k] = g.x[k] - ga * o.y[j];
  }
  for (int i = 0; i < 3; ++i) {
    g.w[i] = g.w[i] + p.half_x * g.x[i] + p.half_y * g.y[i];
    g.x[i] = p.scale_x * g.x[i];
    g.y[i] = -p.scale_y * g.y[i];
  }
  return g;
}

}  // namespace dl
