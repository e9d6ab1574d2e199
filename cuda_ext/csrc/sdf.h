// SPDX-License-Identifier: Apache-2.0
// sdf.h - distances, rays and light of signed-distance programs; compiled for CPU (a register of rays at a time) and CUDA.
//
// The specification is cuda_ext/reference/sdf.py: same columns, same order, same constants. What this file adds never
// changes a surface: rows are prepared once per program, rows whose balls miss a whole tile of rays are left out of
// tracing, and a row is not evaluated where its ball is farther than what is already known.
#pragma once
#include "common.h"
#if !defined(__CUDACC__) && !defined(__CUDACC_RTC__)
#include "sdf_lanes.h"
#endif

// A function too large to be pasted at every call.
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define DL_CALL __host__ __device__ __forceinline__
#else
#define DL_CALL __attribute__((noinline))
#endif

namespace dl {

constexpr int kRow = 40, kPart = 12, kMaxRows = 64;
enum Kind { kNone, kSphere, kEllipsoid, kBox, kCylinder, kCapsule, kFrustum, kRoundCone, kTorus, kArc, kHalfSpace, kPrism,
            kPyramid, kStar };
enum Op { kUnion, kCut, kKeep, kGroup };
enum Fold { kNoFold, kMirrorX, kMirrorZ, kMirrorXZ, kAroundY, kAroundZ };
constexpr float kFar = 1e3f, kHit = 2e-4f, kNormalStep = 1e-3f, kWrap = 0.25f, kPi = 3.14159265358979f;
constexpr int kSteps = 96;
typedef short RowIndex;  // in lists: i, or ~i for a row that is out of reach but starts a group

// Folds the plane onto a sector by reflections at lines through the origin.
struct Sectors {
  int count;
  float line[6][2];     // sine and cosine of their angles
};

struct SdfRow {
  int kind, op, fold, part;
  float smooth, round, scale;
  float q[8];           // the primitive's numbers
  float d[4];           // what follows from them, see prepare()
  float frame[12];      // world -> frame (only read when folded)
  float local[12];      // frame -> local, or world -> local when not folded
  Sectors around;       // of the row's fold around an axis
  Sectors points;       // of a star
  int balls;            // 0: the row has no end; its images lie in these balls (world)
  float ball[4][4];
};

struct Light {
  float to_key[3], key[3], sky[3], ground[3], head, occlusion;
};

struct SdfParams {
  const float* rows;     // [K, P, 40]
  const float* parts;    // [K, Q, 12]
  const float* bound;    // [K, 4]
  const float* pose;     // [K, B, 4, 4] camera_to_world
  const float* focal;    // [K, B] pixels
  SdfRow* prepared;      // [K, P] scratch
  float* rgb;            // [K, B, H, W, 3]
  float* alpha;          // [K, B, H, W]
  float* depth;          // [K, B, H, W]
  float* normal;         // [K, B, H, W, 3]
  int64_t* part;         // [K, B, H, W]
  Light light;
  int programs, row_count, part_count, views, height, width, supersample;
};

struct SdfPoints {
  const float* rows;     // [K, P, 40]
  SdfRow* prepared;      // [K, P] scratch
  const float* points;   // [K, N, 3]
  float* gap;            // [K, N]
  int64_t* part;         // [K, N]
  int64_t programs, row_count, count;
};

template <class T> struct Fill { static DL_HD T of(float x) { return x; } };
#if !defined(__CUDACC__) && !defined(__CUDACC_RTC__)
template <> struct Fill<Wf> { static DL_HD Wf of(float x) { return fill_lanes(x); } };
#endif
DL_HD float exp_(float x) { return expf(x); }
template <class T> DL_HD T fill(float x) { return Fill<T>::of(x); }
template <class T> DL_HD T positive(T x) { return max_(x, fill<T>(0.f)); }
template <class T> DL_HD T clamp01(T x) { return min_(positive(x), fill<T>(1.f)); }
template <class T> DL_HD T length2(T x, T y) { return sqrt_(x * x + y * y); }
template <class T> DL_HD T length3(T x, T y, T z) { return sqrt_(x * x + y * y + z * z); }

template <class T>
DL_HD Vec3<T> affine(const float* m, Vec3<T> p) {
  return {m[0] * p.x + m[1] * p.y + m[2] * p.z + m[9], m[3] * p.x + m[4] * p.y + m[5] * p.z + m[10],
          m[6] * p.x + m[7] * p.y + m[8] * p.z + m[11]};
}

// ---- Primitives ----------------------------------------------------------------------------------------------------

template <class T>
DL_HD T extrude(T flat, T across) {
  return min_(max_(flat, across), fill<T>(0.f)) + length2(positive(flat), positive(across));
}

template <class T>
DL_CALL T ellipsoid(Vec3<T> p, const float* r, float lowest) {
  const float a = r[0] * r[0], b = r[1] * r[1], c = r[2] * r[2];
  T t = max_(r[0] * abs_(p.x) - a, max_(r[1] * abs_(p.y) - b, max_(r[2] * abs_(p.z) - c, fill<T>(lowest))));
  for (int i = 0; i < 4; i++) {
    const T ix = 1.f / (t + a), iy = 1.f / (t + b), iz = 1.f / (t + c);
    const T sx = r[0] * p.x * ix, sy = r[1] * p.y * iy, sz = r[2] * p.z * iz;
    const T n2 = sx * sx + sy * sy + sz * sz;
    const T slope = sx * sx * ix + sy * sy * iy + sz * sz * iz;
    t = max_(t + n2 * (sqrt_(n2) - 1.f) / max_(slope, fill<T>(1e-20f)), fill<T>(lowest));
  }
  const T nx = p.x / (t + a), ny = p.y / (t + b), nz = p.z / (t + c);
  const T size = length3(nx, ny, nz);
  const T reach = length3(r[0] * nx, r[1] * ny, r[2] * nz);
  const T support = (nx * p.x + ny * p.y + nz * p.z - reach) / max_(size, fill<T>(1e-20f));
  const T slab = max_(max_(abs_(p.x) - r[0], abs_(p.y) - r[1]), abs_(p.z) - r[2]);
  return select(size > 1e-12f, max_(support, slab), slab);
}

// `inverse` is 1 / |slanted side|^2.
template <class T>
DL_HD T trapezoid(T x, T y, float bottom, float top, float half, float inverse) {
  x = abs_(x);
  const T cap_x = positive(x - select(y < 0.f, fill<T>(bottom), fill<T>(top)));
  const T cap_y = abs_(y) - half;
  const float slant_x = top - bottom, slant_y = 2.f * half;
  const T along = clamp01(((x - bottom) * slant_x + (y + half) * slant_y) * inverse);
  const T side_x = x - bottom - along * slant_x, side_y = y + half - along * slant_y;
  const T nearest = sqrt_(min_(cap_x * cap_x + cap_y * cap_y, side_x * side_x + side_y * side_y));
  const T outward = side_x * slant_y - side_y * slant_x;
  return select(max_(cap_y, outward) < 0.f, -nearest, nearest);
}

template <class T>
DL_HD void fold_around(const Sectors& sectors, T& u, T& v) {
  v = abs_(v);
  for (int i = 0; i < sectors.count; i++) {
    const float sine = sectors.line[i][0], cosine = sectors.line[i][1];
    const T past = 2.f * min_(u * sine - v * cosine, fill<T>(0.f));
    u = u - past * sine;
    v = v + past * cosine;
  }
}

template <class T>
DL_CALL T star(const SdfRow& row, Vec3<T> p) {
  T u = p.y, v = p.x;
  fold_around(row.points, u, v);
  const float edge_u = row.d[0], edge_v = row.d[1];
  const T along = clamp01(((u - row.q[0]) * edge_u + v * edge_v) * row.d[2]);
  const T flat = length2(u - row.q[0] - along * edge_u, v - along * edge_v);
  const T inside = edge_u * v - edge_v * (u - row.q[0]);
  return extrude(select(inside > 0.f, -flat, flat), abs_(p.z) - row.q[2]);
}

template <class T>
DL_HD T primitive(const SdfRow& row, Vec3<T> p) {
  const float* q = row.q;
  switch (row.kind) {
    case kSphere: return length3(p.x, p.y, p.z) - q[0];
    case kEllipsoid: return ellipsoid(p, q, row.d[0]);
    case kBox: {
      const T u = abs_(p.x) - q[0], v = abs_(p.y) - q[1], w = abs_(p.z) - q[2];
      return min_(max_(max_(u, v), w), fill<T>(0.f)) + length3(positive(u), positive(v), positive(w));
    }
    case kCylinder: return extrude(length2(p.x, p.z) - q[0], abs_(p.y) - q[1]);
    case kCapsule: return length3(p.x, positive(abs_(p.y) - q[1]), p.z) - q[0];
    case kFrustum: return trapezoid(length2(p.x, p.z), p.y, q[0], q[1], q[2], row.d[0]);
    case kRoundCone: {
      const T rho = length2(p.x, p.z), up = p.y + q[2];
      const float span = 2.f * q[2], sine = row.d[0], cosine = row.d[1];
      const T along = up * cosine - rho * sine;
      const T low = length2(rho, up) - q[0], high = length2(rho, up - span) - q[1];
      const T side = rho * cosine + up * sine - q[0];
      return select(along < 0.f, low, select(along > span * cosine, high, side));
    }
    case kTorus: return length2(length2(p.x, p.z) - q[0], p.y) - q[1];
    case kArc: {
      const T x = abs_(p.x);
      const T ring = length2(length2(x, p.y) - q[0], p.z);
      const T end = length3(x - q[0] * q[2], p.y - q[0] * q[3], p.z);
      return select(q[3] * x > q[2] * p.y, end, ring) - q[1];
    }
    case kHalfSpace: return p.y;
    case kPrism: return extrude(trapezoid(p.x, p.y, q[0], q[1], q[2], row.d[0]), abs_(p.z) - q[3]);
    case kPyramid: {
      const T side = (max_(abs_(p.x), abs_(p.z)) - row.d[0]) * row.d[1] + p.y * row.d[2];
      return max_(side, abs_(p.y) - q[2]);
    }
    case kStar: return star(row, p);
    default: return fill<T>(kFar);
  }
}

template <class T>
DL_HD Vec3<T> locate(const SdfRow& row, Vec3<T> p) {
  if (row.fold != kNoFold) {
    p = affine(row.frame, p);
    if (row.fold == kMirrorX || row.fold == kMirrorXZ) p.x = abs_(p.x);
    if (row.fold == kMirrorZ || row.fold == kMirrorXZ) p.z = abs_(p.z);
    if (row.fold == kAroundY) fold_around(row.around, p.z, p.x);
    if (row.fold == kAroundZ) fold_around(row.around, p.y, p.x);
  }
  return affine(row.local, p);
}

template <class T>
DL_HD T row_distance(const SdfRow& row, Vec3<T> p) {
  return row.scale * (primitive(row, locate(row, p)) - row.round);
}

// ---- Preparing a row -----------------------------------------------------------------------------------------------

DL_HD Sectors sectors_of(float copies) {
  Sectors s = {};
  for (int left = int(copies); left > 1 && s.count < 6; s.count++) {
    left = (left + 1) / 2;
    const float angle = float(left) * kPi / copies;
    s.line[s.count][0] = sinf(angle), s.line[s.count][1] = cosf(angle);
  }
  return s;
}

// Radius of a ball around the local origin that holds the primitive; < 0: it has no end.
DL_HD float local_radius(const SdfRow& row) {
  const float* q = row.q;
  const float wide = max_(q[0], q[1]);
  switch (row.kind) {
    case kSphere: return q[0];
    case kEllipsoid: return max_(wide, q[2]);
    case kBox: return length3(q[0], q[1], q[2]);
    case kCylinder: return length2(q[0], q[1]);
    case kCapsule: return q[0] + q[1];
    case kFrustum: return length2(wide, q[2]);
    case kRoundCone: return wide + q[2];
    case kTorus: case kArc: return q[0] + q[1];
    case kPrism: return length3(wide, q[2], q[3]);
    case kPyramid: return length3(wide, wide, q[2]);
    case kStar: return length2(wide, q[2]);
    default: return -1.f;
  }
}

DL_HD void set_balls(SdfRow& row, const float* frame, const float* local) {
  row.balls = 0;
  float radius = local_radius(row);
  if (radius < 0.f) return;
  radius += row.round;
  // Both maps are rotations (the first over `scale`) with a shift: their inverses are transposes.
  float c[3], at[3];
  for (int j = 0; j < 3; j++) c[j] = -(local[j] * local[9] + local[3 + j] * local[10] + local[6 + j] * local[11]);
  if (row.fold == kAroundY) radius += length2(c[0], c[2]), c[0] = c[2] = 0.f;
  if (row.fold == kAroundZ) radius += length2(c[0], c[1]), c[0] = c[1] = 0.f;
  const bool mirror_x = row.fold == kMirrorX || row.fold == kMirrorXZ;
  const bool mirror_z = row.fold == kMirrorZ || row.fold == kMirrorXZ;
  for (int image = 0; image < 4; image++) {
    if (((image & 1) && !mirror_x) || ((image & 2) && !mirror_z)) continue;
    const float f[3] = {(image & 1) ? -c[0] : c[0], c[1], (image & 2) ? -c[2] : c[2]};
    for (int j = 0; j < 3; j++) at[j] = f[j] - frame[9 + j];
    float* ball = row.ball[row.balls++];
    for (int j = 0; j < 3; j++)
      ball[j] = row.scale * row.scale * (frame[j] * at[0] + frame[3 + j] * at[1] + frame[6 + j] * at[2]);
    ball[3] = row.scale * radius;
  }
}

DL_HD void prepare(const float* packed, SdfRow& row) {
  row.kind = int(packed[0]), row.op = int(packed[1]), row.smooth = packed[2], row.part = int(packed[3]);
  row.fold = int(packed[4]), row.round = packed[6], row.scale = packed[7];
  for (int i = 0; i < 8; i++) row.q[i] = packed[8 + i];
  const float *frame = packed + 16, *local = packed + 28, *q = row.q;
  row.around = sectors_of(packed[5]), row.points = sectors_of(row.kind == kStar ? q[3] : 1.f);
  for (int i = 0; i < 12; i++) row.frame[i] = frame[i], row.local[i] = local[i];
  if (row.fold == kNoFold) {
    for (int i = 0; i < 3; i++) {
      const float* b = local + 3 * i;
      for (int j = 0; j < 3; j++) row.local[3 * i + j] = b[0] * frame[j] + b[1] * frame[3 + j] + b[2] * frame[6 + j];
      row.local[9 + i] = b[0] * frame[9] + b[1] * frame[10] + b[2] * frame[11] + local[9 + i];
    }
  }
  if (row.kind == kEllipsoid) {
    const float least = min_(min_(q[0], q[1]), q[2]);
    row.d[0] = -0.999f * least * least;
  } else if (row.kind == kFrustum || row.kind == kPrism) {
    row.d[0] = 1.f / ((q[1] - q[0]) * (q[1] - q[0]) + 4.f * q[2] * q[2]);
  } else if (row.kind == kRoundCone) {
    row.d[0] = (q[0] - q[1]) / (2.f * q[2]);
    row.d[1] = sqrtf(1.f - row.d[0] * row.d[0]);
  } else if (row.kind == kPyramid) {
    const float run = q[0] - q[1], rise = 2.f * q[2], inverse = 1.f / length2(run, rise);
    row.d[0] = 0.5f * (q[0] + q[1]), row.d[1] = rise * inverse, row.d[2] = run * inverse;
  } else if (row.kind == kStar) {
    row.d[0] = q[1] * cosf(kPi / q[3]) - q[0], row.d[1] = q[1] * sinf(kPi / q[3]);
    row.d[2] = 1.f / (row.d[0] * row.d[0] + row.d[1] * row.d[1]);
  }
  set_balls(row, frame, local);
}

// ---- The program ---------------------------------------------------------------------------------------------------

template <class T>
DL_HD T smooth_min(T a, T b, float k) {
  const T nearest = min_(a, b);
  if (k <= 0.f) return nearest;
  const T overlap = positive(k - abs_(a - b));
  return nearest - overlap * overlap * (0.25f / k);
}

// Would evaluating this row change a union that is at `known` already? No, where its only ball is farther than that
// (a pyramid's distance may be less than the way to its ball: it is a bound).
template <class T>
DL_HD bool too_far(const SdfRow& row, Vec3<T> p, T known) {
  if (row.balls != 1 || row.op != kUnion || row.kind == kPyramid) return false;
  const float* c = row.ball[0];
  const T gap = max_(known, fill<T>(0.f)) + (row.smooth + c[3]);
  const T x = p.x - c[0], y = p.y - c[1], z = p.z - c[2];
  return !any(x * x + y * y + z * z < gap * gap);
}

// `list` holds the rows to look at; ~i stands for a row that is out of reach but starts a group.
template <bool kWinner, class T>
DL_CALL T distance(const SdfRow* rows, const RowIndex* list, int count, Vec3<T> p, T* winner) {
  T total = fill<T>(kFar), group = total, total_row = fill<T>(0.f), group_row = total_row;
  float joint = 0.f;
  for (int i = 0; i < count; i++) {
    const bool absent = list[i] < 0;
    const int index = absent ? ~list[i] : list[i];
    const SdfRow& row = rows[index];
    if (too_far(row, p, group)) continue;
    const T mine = absent ? fill<T>(kFar) : row_distance(row, p);
    const T here = fill<T>(float(index));
    if (row.op == kGroup) {
      if (kWinner) total_row = select(group < total, group_row, total_row), group_row = here;
      total = smooth_min(total, group, joint);
      group = mine;
      joint = row.smooth;
    } else if (row.op == kUnion) {
      if (kWinner) group_row = select(mine < group, here, group_row);
      group = smooth_min(group, mine, row.smooth);
    } else {
      const T cut = row.op == kCut ? mine : -mine;
      if (kWinner) group_row = select(cut < -group, here, group_row);
      group = -smooth_min(-group, cut, row.smooth);
    }
  }
  if (kWinner) *winner = select(group < total, group_row, total_row);
  return smooth_min(total, group, joint);
}

template <class T>
DL_HD Vec3<T> along_ray(Vec3<float> o, Vec3<T> d, T t) {
  return {o.x + t * d.x, o.y + t * d.y, o.z + t * d.z};
}

// Distance along the rays, kFar where they miss. `inside` < 0.5 marks lanes without a ray.
template <class T>
DL_HD T trace(const SdfRow* rows, const RowIndex* list, int count, const float* bound, Vec3<float> o, Vec3<T> d, T inside) {
  const float x = o.x - bound[0], y = o.y - bound[1], z = o.z - bound[2];
  const T half = x * d.x + y * d.y + z * d.z;
  const T square = half * half - (x * x + y * y + z * z - bound[3] * bound[3]);
  const T root = sqrt_(positive(square));
  const T leave = root - half;
  T t = positive(-half - root), found = fill<T>(kFar);
  T alive = select((square > 0.f) & (leave > 0.f), inside, fill<T>(0.f));
  for (int step = 0; step < kSteps && any(alive > 0.5f); step++) {
    const T gap = distance<false>(rows, list, count, along_ray(o, d, t), &t);
    const auto arrived = (alive > 0.5f) & (gap < kHit);
    found = select(arrived, t, found);
    alive = select(arrived, fill<T>(0.f), alive);
    t = select(alive > 0.5f, t + gap, t);
    alive = select(t < leave, alive, fill<T>(0.f));
  }
  return found;
}

template <class T>
DL_HD Vec3<T> surface_normal(const SdfRow* rows, const RowIndex* list, int count, Vec3<T> p) {
  const float corners[4][3] = {{1, -1, -1}, {-1, -1, 1}, {-1, 1, -1}, {1, 1, 1}};
  Vec3<T> n = {fill<T>(0.f), fill<T>(0.f), fill<T>(0.f)};
  for (int i = 0; i < 4; i++) {
    const float* c = corners[i];
    const Vec3<T> at = {p.x + kNormalStep * c[0], p.y + kNormalStep * c[1], p.z + kNormalStep * c[2]};
    const T gap = distance<false>(rows, list, count, at, &n.x);
    n = {n.x + gap * c[0], n.y + gap * c[1], n.z + gap * c[2]};
  }
  const T inverse = 1.f / max_(length3(n.x, n.y, n.z), fill<T>(1e-12f));
  return {n.x * inverse, n.y * inverse, n.z * inverse};
}

template <class T>
DL_HD T open_sky(const SdfRow* rows, const RowIndex* list, int count, Vec3<T> p, Vec3<T> n, float strength) {
  const float reach[3] = {0.05f, 0.12f, 0.25f};
  T open = fill<T>(1.f);
  for (int i = 0; i < 3; i++) {
    const Vec3<T> at = {p.x + reach[i] * n.x, p.y + reach[i] * n.y, p.z + reach[i] * n.z};
    const T clear = distance<false>(rows, list, count, at, &open) / reach[i];
    open = open - (strength / 3.f) * clamp01(1.f - clear);
  }
  return open;
}

// Which of a part's two colours a point has: 0 the base, 1 the second.
DL_HD float pattern(const SdfRow& row, const float* finish, Vec3<float> p) {
  const int kind = int(finish[6]);
  if (kind == 0) return 0.f;
  const Vec3<float> at = locate(row, p);
  const float k = row.scale / max_(finish[7], 1e-6f);
  const float x = at.x * k, y = at.y * k, z = at.z * k;
  if (kind == 1) return float(int(floorf(2.f * (0.6f * x + 0.8f * y) + 0.5f)) & 1);
  if (kind == 2) return float((int(floorf(2.f * x + 0.5f)) + int(floorf(2.f * y + 0.5f)) + int(floorf(2.f * z + 0.5f))) & 1);
  const float u = x - rintf(x), v = y - rintf(y), w = z - rintf(z);
  return u * u + v * v + w * w < 0.36f * 0.36f ? 1.f : 0.f;
}

// A part id as an index: whatever a table holds, it stays inside the parts.
DL_HD int known_part(int part, int count) { return part < 0 ? 0 : part < count ? part : count - 1; }

template <class T>
struct Surface {
  T colour[3], rough, metallic;
};

// Linear radiance of three channels.
template <class T>
DL_HD void shade(const Light& light, const Surface<T>& s, Vec3<T> n, Vec3<T> to_eye, T sky, T* out) {
  const float* k = light.to_key;
  const T up = 0.5f + 0.5f * n.y;
  const T key = positive((n.x * k[0] + n.y * k[1] + n.z * k[2] + kWrap) * (1.f / (1.f + kWrap)));
  const T head = positive(n.x * to_eye.x + n.y * to_eye.y + n.z * to_eye.z) * light.head;
  const T hx = k[0] + to_eye.x, hy = k[1] + to_eye.y, hz = k[2] + to_eye.z;
  const T size = max_(length3(hx, hy, hz), fill<T>(1e-12f));
  const T facing = positive((n.x * hx + n.y * hy + n.z * hz) / size);
  const T rough = max_(s.rough, fill<T>(0.1f)), sharp = 1.f / (rough * rough * rough * rough);
  const T lobe = exp_((facing - 1.f) * 2.f * sharp) * 0.25f * sharp;
  for (int i = 0; i < 3; i++) {
    const T hemisphere = light.ground[i] * (1.f - up) + light.sky[i] * up;
    const T arriving = (hemisphere + head) * sky + light.key[i] * key * (0.5f + 0.5f * sky);
    const T f0 = 0.04f * (1.f - s.metallic) + s.colour[i] * s.metallic;
    out[i] = s.colour[i] * (1.f - 0.4f * s.metallic) * arriving + f0 * lobe * light.key[i] * key * sky;
  }
}

DL_HD float to_srgb(float x) {
  x = min_(max_(x, 0.f), 1.f);
  return x <= 0.0031308f ? 12.92f * x : 1.055f * powf(x, 1.f / 2.4f) - 0.055f;
}

// ---- Tiles ---------------------------------------------------------------------------------------------------------

struct Cone {
  Vec3<float> apex, axis;
  float sine, cosine;
};

// The rays through the pixel rectangle [x0, x1] x [y0, y1]: the cone around its four corner rays.
DL_HD Cone tile_cone(const float* pose, float focal, float height, float width, float x0, float y0, float x1, float y1) {
  Vec3<float> corner[4], axis = {0.f, 0.f, 0.f};
  for (int i = 0; i < 4; i++) {
    const float x = (((i & 1) ? x1 : x0) - 0.5f * width) / focal, y = (0.5f * height - ((i & 2) ? y1 : y0)) / focal;
    const float inverse = 1.f / length3(x, y, 1.f);
    corner[i] = {(pose[0] * x + pose[1] * y - pose[2]) * inverse, (pose[4] * x + pose[5] * y - pose[6]) * inverse,
                 (pose[8] * x + pose[9] * y - pose[10]) * inverse};
    axis = axis + corner[i];
  }
  axis = (1.f / length3(axis.x, axis.y, axis.z)) * axis;
  float cosine = 1.f;
  for (int i = 0; i < 4; i++) cosine = min_(cosine, dot(axis, corner[i]));
  cosine = max_(cosine - 1e-6f, 0.f);
  return {{pose[3], pose[7], pose[11]}, axis, sqrtf(1.f - cosine * cosine), cosine};
}

DL_HD bool cone_meets(const Cone& cone, const float* ball, float margin) {
  const Vec3<float> v = {ball[0] - cone.apex.x, ball[1] - cone.apex.y, ball[2] - cone.apex.z};
  const float radius = ball[3] + margin, along = dot(v, cone.axis), square = dot(v, v);
  if (square <= radius * radius) return true;
  return sqrtf(max_(square - along * along, 0.f)) * cone.cosine - along * cone.sine <= radius;
}

// How far beyond its ball a row can still bend a surface: the widest blend of the program, twice (see smooth_min).
DL_HD float blend_margin(const SdfRow* rows, int count) {
  float widest = 0.f;
  for (int i = 0; i < count; i++) widest = max_(widest, rows[i].smooth);
  return 2.25f * widest + 4.f * kNormalStep;
}

// A row for the list of a tile: its index, ~index when it only starts a group, or `left out` = false.
DL_HD bool reaches(const SdfRow& row, const Cone& cone, float margin) {
  if (row.balls == 0) return row.kind != kNone;
  for (int i = 0; i < row.balls; i++)
    if (cone_meets(cone, row.ball[i], margin)) return true;
  return false;
}

}  // namespace dl
