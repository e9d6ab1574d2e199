// SPDX-License-Identifier: Apache-2.0
// splat.h - arithmetic of one splat in one view, forward and backward; equations in cuda_ext/reference/splat.py.
// Launchers decide threads and memory, this file decides pictures.
#pragma once
#include "common.h"

namespace dl {

constexpr float kMaxAlpha = 0.99f;
constexpr float kMinAlpha = 1.f / 255.f;
constexpr float kLog2MinAlpha = -7.99435344f;
constexpr float kMinTransmittance = 1e-4f;
constexpr float kClamp = 1.3f;           // of the half field of view, in the Jacobian
constexpr float kLog2e = 1.44269504f;
constexpr float kSharpest = 1e10f;      // 1/px^2: a conic entry above it is a singular covariance
constexpr float kFarthest = 1e6f;       // px: a centre farther out is left out
constexpr float kLargest = 1e15f;      // any number of a splat
constexpr int kTile = 16;               // px
constexpr int kMaxHarmonics = 25;       // of degree 4

// One camera, computed from its matrix.
struct SplatView {
  float eye[3];         // in the world
  float axes[9];        // rows: x right, y down, z forward, in the world
  float focal;          // px
  float centre_x, centre_y;  // principal point, px
  float low_x, high_x, low_y, high_y;  // clamps of x/z and y/z in the Jacobian
  float width, height;  // px
};

// What the rasteriser reads of a splat: 64 bytes.
struct alignas(16) SplatRecord {
  float u, v;           // centre, px
  float a, b, c;        // log2(alpha) = top - a dx^2 - b dx dy - c dy^2
  float top;            // log2 of the compensated opacity
  float feature[7];     // r g b, depth, world normal
  float slope_x, slope_y;    // -b / 2a, -b / 2c: where log2(alpha) is greatest along a row, along a column
  float radius;         // px; 0: left out of this view
};

struct SplatOptions {
  float dilation;       // px^2
  float near;           // smallest camera z
  int compensate;       // Mip-splatting opacity compensation
};

// Everything a launch reads and writes; float32 unless said. Absent optional buffers are null.
// M pairs (splat, tile): a tile's pairs are neighbours, ordered front to back.
struct SplatParams {
  const float* means;         // [N, 3]
  const float* quats;         // [N, 4]
  const float* scales;        // [N, 3]
  const float* opacities;     // [N]
  const float* colors;        // [N, 3] or null
  const float* sh;            // [N, sh_count, 3] or null
  const float* extra;         // [N, extra_count] or null
  const float* cameras;       // [B, 4, 4] camera to world
  const float* focal;         // [B] px
  const float* principal;     // [B, 2] px from the upper left corner, or null: the middle
  const float* background;    // [B, 3] or null
  int64_t count;              // N
  int64_t pair_count;         // M; with a capacity given, the capacity
  int views, height, width;
  int sh_count, extra_count;
  SplatOptions options;
  SplatRecord* records;       // [B, N]
  uint16_t* rects;            // [B, N, 4] tiles x0 y0 x1 y1, upper ends excluded
  uint32_t* keys;             // [B, N] scratch: order in depth; where no tile is touched 0 on the CPU, kNowhere on CUDA
  int32_t* offsets;           // [B, N] index of the splat's first pair in `slots`
  int32_t* starts;            // [B * tiles + 1] index of the tile's first pair
  int32_t* pairs;             // [M] splat
  // The next two, `through` and `last` are null when there will be no backward pass.
  int32_t* slots;             // [M] where a splat's pairs are in `pairs`, tile by tile of its rect
  uint16_t* masks;            // [M] which of the tile's 16 blocks of 4 x 4 pixels the splat was composited on
  float* rgb;                 // [B, H, W, 3]
  float* alpha;               // [B, H, W]
  float* depth;               // [B, H, W]
  float* normal;              // [B, H, W, 3]
  float* extra_image;         // [B, H, W, extra_count] or null
  float* radii;               // [B, N]
  float* through;             // [B, H, W] transmittance left
  int32_t* last;              // [B, H, W] rank of the last splat composited, counted in the tile; -1: none
  const float* g_rgb;         // gradients of the pictures, null: zero
  const float* g_alpha;
  const float* g_depth;
  const float* g_normal;
  const float* g_extra;
  float* rows;                // [M, 16] scratch: gradients of a pair
  float* extra_rows;          // [M, extra_count] scratch
  float* d_means;             // gradients of the inputs, written
  float* d_quats;
  float* d_scales;
  float* d_opacities;
  float* d_colors;
  float* d_sh;
  float* d_extra;
  float* d_probe;             // [B, N, 2] to the projected centre, or null
};

template <class T>
struct SplatInput {
  Vec3<T> mean;
  T quat[4];            // w x y z
  Vec3<T> scale;
  T opacity;
};

// A splat in a view, with what its backward pass needs.
template <class T>
struct Projection {
  Vec3<T> at;           // mean in the view frame
  T u, v;               // px
  T tx, ty;             // x/z and y/z, clamped
  T pull;               // focal / z
  Vec3<T> row_x, row_y; // J V
  T unit[4], length;    // quaternion, normalised, and the length it had
  Vec3<T> axis[3];      // columns of R
  Vec3<T> ax, ay;       // rows of A = J V R diag(s); C = A A^T + dilation
  T det_sharp, det;     // of A A^T, of C
  T qa, qb, qc;         // C^-1: xx, xy, yy
  T xx, xy, yy;         // C
  T thin;               // factor on the opacity
  T opacity;
};

// Gradients of a loss to the outputs of project().
template <class T>
struct ProjectionGrad {
  T u, v, qa, qb, qc, opacity, depth;
  Vec3<T> normal;
};

// A view's camera from its matrix.
DL_HD SplatView view_of(const SplatParams& p, int b) {
  SplatView v;
  const float* m = p.cameras + int64_t(b) * 16;
  for (int i = 0; i < 3; i++) {
    v.eye[i] = m[4 * i + 3];
    for (int j = 0; j < 3; j++) v.axes[3 * i + j] = (i == 0 ? 1.f : -1.f) * m[4 * j + i];
  }
  v.focal = p.focal[b];
  v.width = float(p.width);
  v.height = float(p.height);
  const float middle_x = 0.5f * v.width, middle_y = 0.5f * v.height;
  v.centre_x = p.principal ? p.principal[2 * b] : middle_x;
  v.centre_y = p.principal ? p.principal[2 * b + 1] : middle_y;
  const float limit_x = kClamp * 0.5f * v.width / v.focal, limit_y = kClamp * 0.5f * v.height / v.focal;
  const float shift_x = (middle_x - v.centre_x) / v.focal, shift_y = (middle_y - v.centre_y) / v.focal;
  v.low_x = shift_x - limit_x, v.high_x = shift_x + limit_x;
  v.low_y = shift_y - limit_y, v.high_y = shift_y + limit_y;
  return v;
}

// log2(alpha) at an offset from the centre of a record.
template <class T>
DL_HD T log2_alpha(const float* record, T dx, T dy) {
  return (record[5] - dx * (record[2] * dx + record[3] * dy)) - (record[4] * dy) * dy;
}

template <class T>
DL_HD T at_least(T x, float low) { return max_(x, T(x - x) + low); }

template <class T>
DL_HD void rotation_columns(const T q[4], Vec3<T> axis[3]) {
  const T w = q[0], x = q[1], y = q[2], z = q[3];
  axis[0] = {1.f - 2.f * (y * y + z * z), 2.f * (x * y + w * z), 2.f * (x * z - w * y)};
  axis[1] = {2.f * (x * y - w * z), 1.f - 2.f * (x * x + z * z), 2.f * (y * z + w * x)};
  axis[2] = {2.f * (x * z + w * y), 2.f * (y * z - w * x), 1.f - 2.f * (x * x + y * y)};
}

template <class T>
DL_HD Vec3<T> to_view(const SplatView& c, Vec3<T> m) {
  const T x = m.x - c.eye[0], y = m.y - c.eye[1], z = m.z - c.eye[2];
  return {c.axes[0] * x + c.axes[1] * y + c.axes[2] * z, c.axes[3] * x + c.axes[4] * y + c.axes[5] * z,
          c.axes[6] * x + c.axes[7] * y + c.axes[8] * z};
}

template <class T>
DL_HD Projection<T> project(const SplatInput<T>& in, const SplatView& c, const SplatOptions& o) {
  Projection<T> p;
  p.at = to_view(c, in.mean);
  const T x = p.at.x / p.at.z, y = p.at.y / p.at.z;
  p.tx = select(x > c.high_x, T(x - x) + c.high_x, select(x < c.low_x, T(x - x) + c.low_x, x));
  p.ty = select(y > c.high_y, T(y - y) + c.high_y, select(y < c.low_y, T(y - y) + c.low_y, y));
  p.pull = c.focal / p.at.z;
  p.u = p.pull * p.at.x + c.centre_x;
  p.v = p.pull * p.at.y + c.centre_y;
  p.row_x = {p.pull * (c.axes[0] - p.tx * c.axes[6]), p.pull * (c.axes[1] - p.tx * c.axes[7]),
             p.pull * (c.axes[2] - p.tx * c.axes[8])};
  p.row_y = {p.pull * (c.axes[3] - p.ty * c.axes[6]), p.pull * (c.axes[4] - p.ty * c.axes[7]),
             p.pull * (c.axes[5] - p.ty * c.axes[8])};
  const T* q = in.quat;
  p.length = sqrt_(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
  for (int i = 0; i < 4; i++) p.unit[i] = q[i] / p.length;
  rotation_columns(p.unit, p.axis);
  const Vec3<T>*r = p.axis, &k = in.scale;
  p.ax = {k.x * dot(p.row_x, r[0]), k.y * dot(p.row_x, r[1]), k.z * dot(p.row_x, r[2])};
  p.ay = {k.x * dot(p.row_y, r[0]), k.y * dot(p.row_y, r[1]), k.z * dot(p.row_y, r[2])};
  const T xx = dot(p.ax, p.ax), yy = dot(p.ay, p.ay);
  p.xy = dot(p.ax, p.ay);
  // By Cauchy-Binet: xx yy - xy^2 would cancel for thin splats.
  const Vec3<T> area = cross(p.ax, p.ay);
  p.det_sharp = dot(area, area);
  p.det = p.det_sharp + o.dilation * (xx + yy) + o.dilation * o.dilation;
  p.xx = xx + o.dilation;
  p.yy = yy + o.dilation;
  p.qa = p.yy / p.det;
  p.qb = -p.xy / p.det;
  p.qc = p.xx / p.det;
  p.thin = T(x - x) + 1.f;
  if (o.compensate) p.thin = sqrt_(at_least(T(p.det_sharp / p.det), 1e-10f));
  p.opacity = in.opacity * p.thin;
  return p;
}

// The splat's shortest axis (the first, if tied), turned to the eye. `index` receives 0, 1, 2 as a float, `sign` +-1.
template <class T>
DL_HD Vec3<T> facing_normal(const SplatInput<T>& in, const Projection<T>& p, const SplatView& c, T& index, T& sign) {
  const T zero = in.opacity - in.opacity;
  T best = in.scale.x;
  Vec3<T> n = p.axis[0];
  index = zero;
  const auto second = in.scale.y < best;
  best = select(second, in.scale.y, best);
  index = select(second, T(zero + 1.f), index);
  n = {select(second, p.axis[1].x, n.x), select(second, p.axis[1].y, n.y), select(second, p.axis[1].z, n.z)};
  const auto third = in.scale.z < best;
  index = select(third, T(zero + 2.f), index);
  n = {select(third, p.axis[2].x, n.x), select(third, p.axis[2].y, n.y), select(third, p.axis[2].z, n.z)};
  const T towards = (c.eye[0] - in.mean.x) * n.x + (c.eye[1] - in.mean.y) * n.y + (c.eye[2] - in.mean.z) * n.z;
  sign = select(towards < 0.f, T(zero - 1.f), T(zero + 1.f));
  return sign * n;
}

// Where the splat is drawn at all. `reach` = 2 ln(opacity / kMinAlpha). Also gives the box and the radius.
template <class T>
DL_HD auto visible(const Projection<T>& p, T reach, const SplatView& c, const SplatOptions& o, T& ex, T& ey, T& radius)
    -> decltype(reach > 0.f) {
  ex = sqrt_(reach * p.xx);
  ey = sqrt_(reach * p.yy);
  const T half = 0.5f * (p.xx - p.yy);
  radius = sqrt_(reach * (0.5f * (p.xx + p.yy) + sqrt_(half * half + p.xy * p.xy)));
  auto keep = (p.at.z > o.near) & (p.det > 0.f) & (p.length > 1e-15f) & (p.length < 1e15f) & (reach > 0.f);
  keep = keep & (abs_(p.qa) < kSharpest) & (abs_(p.qb) < kSharpest) & (abs_(p.qc) < kSharpest);
  keep = keep & (abs_(p.u) < kFarthest) & (abs_(p.v) < kFarthest) & finite_(radius) & finite_(ex) & finite_(ey);
  return keep & (p.u + ex > 0.f) & (p.v + ey > 0.f) & (p.u - ex < c.width) & (p.v - ey < c.height);
}

// From what the rasteriser sums over pixels: moments (1, x, y, xx, xy, yy) of dL/d log(alpha) about the centre, and the
// gradients of the seven features.
template <class T>
DL_HD ProjectionGrad<T> from_moments(const Projection<T>& p, const T* moment, const T* feature) {
  ProjectionGrad<T> g;
  g.u = p.qa * moment[1] + p.qb * moment[2];
  g.v = p.qb * moment[1] + p.qc * moment[2];
  g.qa = -0.5f * moment[3];
  g.qb = -moment[4];
  g.qc = -0.5f * moment[5];
  g.opacity = moment[0] / p.opacity;
  g.depth = feature[3];
  g.normal = {feature[4], feature[5], feature[6]};
  return g;
}

// Moves moments from a centre to the point (-dx, -dy) away from it: x becomes x + dx, y becomes y + dy.
DL_HD void shift_moments(float* m, float dx, float dy) {
  const float x = m[1] + dx * m[0], y = m[2] + dy * m[0];
  m[3] += dx * (m[1] + x);
  m[4] += dx * m[2] + dy * x;
  m[5] += dy * (m[2] + y);
  m[1] = x;
  m[2] = y;
}

// Adds to the gradients of the inputs.
template <class T>
DL_HD void project_backward(const SplatInput<T>& in, const Projection<T>& p, const SplatView& c, const SplatOptions& o,
                            const ProjectionGrad<T>& g, T index, T sign, SplatInput<T>& out) {
  // C^-1 -> C: H = -Q G Q with G = [[qa, qb/2], [qb/2, qc]].
  const T m00 = p.qa * g.qa + 0.5f * p.qb * g.qb, m01 = 0.5f * p.qa * g.qb + p.qb * g.qc;
  const T m10 = p.qb * g.qa + 0.5f * p.qc * g.qb, m11 = 0.5f * p.qb * g.qb + p.qc * g.qc;
  const T hxx = -(m00 * p.qa + m01 * p.qb), hxy = -(m00 * p.qb + m01 * p.qc), hyy = -(m10 * p.qb + m11 * p.qc);
  Vec3<T> dax = 2.f * (hxx * p.ax + hxy * p.ay), day = 2.f * (hxy * p.ax + hyy * p.ay);
  out.opacity = out.opacity + g.opacity * p.thin;
  if (o.compensate) {
    const T ratio = p.det_sharp / p.det;
    const T d_ratio = select(ratio > 1e-10f, T(0.5f * g.opacity * in.opacity / p.thin), T(ratio - ratio));
    const T d_det = -d_ratio * ratio / p.det, d_sharp = d_ratio / p.det + d_det;
    const T sx = dot(p.ax, p.ax), sy = dot(p.ay, p.ay);
    dax = dax + T(2.f * (d_sharp * sy + o.dilation * d_det)) * p.ax - T(2.f * d_sharp * p.xy) * p.ay;
    day = day + T(2.f * (d_sharp * sx + o.dilation * d_det)) * p.ay - T(2.f * d_sharp * p.xy) * p.ax;
  }
  // A = J V R diag(s).
  const T scale[3] = {in.scale.x, in.scale.y, in.scale.z};
  const T gx[3] = {dax.x, dax.y, dax.z}, gy[3] = {day.x, day.y, day.z};
  const T zero = p.u - p.u;
  Vec3<T> d_row_x = {zero, zero, zero}, d_row_y = d_row_x;
  Vec3<T> d_axis[3];
  T d_scale[3];
  for (int j = 0; j < 3; j++) {
    d_scale[j] = gx[j] * dot(p.row_x, p.axis[j]) + gy[j] * dot(p.row_y, p.axis[j]);
    d_row_x = d_row_x + T(gx[j] * scale[j]) * p.axis[j];
    d_row_y = d_row_y + T(gy[j] * scale[j]) * p.axis[j];
    d_axis[j] = T(gx[j] * scale[j]) * p.row_x + T(gy[j] * scale[j]) * p.row_y;
    const T chosen = select(index == float(j), sign, zero);
    d_axis[j] = d_axis[j] + chosen * g.normal;
  }
  out.scale = out.scale + Vec3<T>{d_scale[0], d_scale[1], d_scale[2]};
  // Columns of R -> unit quaternion -> quaternion of any length.
  const T w = p.unit[0], x = p.unit[1], y = p.unit[2], z = p.unit[3];
  const Vec3<T>&A = d_axis[0], &B = d_axis[1], &C = d_axis[2];
  const T dw = 2.f * (z * (A.y - B.x) + y * (C.x - A.z) + x * (B.z - C.y));
  const T dx = 2.f * (y * (A.y + B.x) + z * (A.z + C.x) + w * (B.z - C.y) - 2.f * x * (B.y + C.z));
  const T dy = 2.f * (x * (A.y + B.x) + z * (B.z + C.y) + w * (C.x - A.z) - 2.f * y * (A.x + C.z));
  const T dz = 2.f * (x * (A.z + C.x) + y * (B.z + C.y) + w * (A.y - B.x) - 2.f * z * (A.x + B.y));
  const T along = w * dw + x * dx + y * dy + z * dz;
  const T d_unit[4] = {dw, dx, dy, dz};
  for (int i = 0; i < 4; i++) out.quat[i] = out.quat[i] + (d_unit[i] - along * p.unit[i]) / p.length;
  // J V and the centre -> mean in the view frame -> world.
  const Vec3<T> ray_x = {c.axes[0] - p.tx * c.axes[6], c.axes[1] - p.tx * c.axes[7], c.axes[2] - p.tx * c.axes[8]};
  const Vec3<T> ray_y = {c.axes[3] - p.ty * c.axes[6], c.axes[4] - p.ty * c.axes[7], c.axes[5] - p.ty * c.axes[8]};
  const Vec3<T> forward = {zero + c.axes[6], zero + c.axes[7], zero + c.axes[8]};
  const T inv_z = 1.f / p.at.z, rx = p.at.x * inv_z, ry = p.at.y * inv_z;
  const T d_tx = select((rx <= c.high_x) & (rx >= c.low_x), T(-p.pull * dot(d_row_x, forward) * inv_z), zero);
  const T d_ty = select((ry <= c.high_y) & (ry >= c.low_y), T(-p.pull * dot(d_row_y, forward) * inv_z), zero);
  const T d_pull = dot(d_row_x, ray_x) + dot(d_row_y, ray_y) + g.u * p.at.x + g.v * p.at.y;
  const T vx = g.u * p.pull + d_tx, vy = g.v * p.pull + d_ty;
  const T vz = g.depth - d_pull * p.pull * inv_z - d_tx * rx - d_ty * ry;
  out.mean.x = out.mean.x + c.axes[0] * vx + c.axes[3] * vy + c.axes[6] * vz;
  out.mean.y = out.mean.y + c.axes[1] * vx + c.axes[4] * vy + c.axes[7] * vz;
  out.mean.z = out.mean.z + c.axes[2] * vx + c.axes[5] * vy + c.axes[8] * vz;
}

// Real spherical harmonics of a unit direction: count = 1, 4, 9, 16 or 25.
template <class T>
DL_HD void sh_basis(Vec3<T> d, int count, T* b) {
  const T x = d.x, y = d.y, z = d.z;
  b[0] = T(x - x) + 0.28209479177387814f;
  if (count > 1) {
    b[1] = -0.4886025119029199f * y;
    b[2] = 0.4886025119029199f * z;
    b[3] = -0.4886025119029199f * x;
  }
  if (count > 4) {
    b[4] = 1.0925484305920792f * x * y;
    b[5] = -1.0925484305920792f * y * z;
    b[6] = 0.31539156525252005f * (2.f * z * z - x * x - y * y);
    b[7] = -1.0925484305920792f * x * z;
    b[8] = 0.5462742152960396f * (x * x - y * y);
  }
  if (count > 9) {
    b[9] = -0.5900435899266435f * y * (3.f * x * x - y * y);
    b[10] = 2.890611442640554f * x * y * z;
    b[11] = -0.4570457994644658f * y * (4.f * z * z - x * x - y * y);
    b[12] = 0.3731763325901154f * z * (2.f * z * z - 3.f * x * x - 3.f * y * y);
    b[13] = -0.4570457994644658f * x * (4.f * z * z - x * x - y * y);
    b[14] = 1.445305721320277f * z * (x * x - y * y);
    b[15] = -0.5900435899266435f * x * (x * x - 3.f * y * y);
  }
  if (count > 16) {
    const T xx = x * x, yy = y * y, zz = z * z, across = xx + yy, apart = xx - yy;
    b[16] = 2.5033429417967046f * x * y * apart;
    b[17] = -1.7701307697799304f * y * z * (3.f * xx - yy);
    b[18] = 0.9461746957575601f * x * y * (6.f * zz - across);
    b[19] = -0.6690465435572892f * y * z * (4.f * zz - 3.f * across);
    b[20] = 0.10578554691520431f * (8.f * zz * zz - 24.f * zz * across + 3.f * across * across);
    b[21] = -0.6690465435572892f * x * z * (4.f * zz - 3.f * across);
    b[22] = 0.47308734787878004f * apart * (6.f * zz - across);
    b[23] = -1.7701307697799304f * x * z * (xx - 3.f * yy);
    b[24] = 0.6258357354491761f * (apart * apart - 4.f * xx * yy);
  }
}

// What degree 4 adds to `sh_backward`.
template <class T>
DL_APART Vec3<T> sh_backward_4(Vec3<T> d, const T* g) {
  const T x = d.x, y = d.y, z = d.z;
  const T k16 = 2.5033429417967046f * g[16], k17 = -1.7701307697799304f * g[17], k18 = 0.9461746957575601f * g[18];
  const T k19 = -0.6690465435572892f * g[19], k20 = 0.10578554691520431f * g[20], k21 = -0.6690465435572892f * g[21];
  const T k22 = 0.47308734787878004f * g[22], k23 = -1.7701307697799304f * g[23], k24 = 0.6258357354491761f * g[24];
  const T xx = x * x, yy = y * y, zz = z * z, across = xx + yy, apart = xx - yy;
  const T zone = 12.f * k20 * (across - 4.f * zz);  // of the zonal one, along x and y
  Vec3<T> o;
  o.x = k16 * y * (3.f * xx - yy) + 6.f * k17 * x * y * z + k18 * y * (6.f * zz - 3.f * xx - yy) -
        6.f * k19 * x * y * z + zone * x + k21 * z * (4.f * zz - 9.f * xx - 3.f * yy) +
        4.f * k22 * x * (3.f * zz - xx) + 3.f * k23 * z * apart + 4.f * k24 * x * (xx - 3.f * yy);
  o.y = k16 * x * (xx - 3.f * yy) + 3.f * k17 * z * apart + k18 * x * (6.f * zz - xx - 3.f * yy) +
        k19 * z * (4.f * zz - 3.f * xx - 9.f * yy) + zone * y - 6.f * k21 * x * y * z +
        4.f * k22 * y * (yy - 3.f * zz) - 6.f * k23 * x * y * z + 4.f * k24 * y * (yy - 3.f * xx);
  o.z = k17 * y * (3.f * xx - yy) + 12.f * k18 * x * y * z + 3.f * k19 * y * (4.f * zz - across) +
        16.f * k20 * z * (2.f * zz - 3.f * across) + 3.f * k21 * x * (4.f * zz - across) + 12.f * k22 * z * apart +
        k23 * x * (xx - 3.f * yy);
  return o;
}

// Gradient to the (free, unnormalised) direction of sum_k g[k] b[k].
template <class T>
DL_HD Vec3<T> sh_backward(Vec3<T> d, int count, const T* g) {
  const T x = d.x, y = d.y, z = d.z;
  const T zero = x - x;
  Vec3<T> o = {zero, zero, zero};
  if (count > 1) {
    o.x = o.x - 0.4886025119029199f * g[3];
    o.y = o.y - 0.4886025119029199f * g[1];
    o.z = o.z + 0.4886025119029199f * g[2];
  }
  if (count > 4) {
    const T k4 = 1.0925484305920792f * g[4], k5 = -1.0925484305920792f * g[5], k6 = 0.63078313050504f * g[6];
    const T k7 = -1.0925484305920792f * g[7], k8 = 1.0925484305920792f * g[8];
    o.x = o.x + k4 * y - k6 * x + k7 * z + k8 * x;
    o.y = o.y + k4 * x + k5 * z - k6 * y - k8 * y;
    o.z = o.z + k5 * y + 2.f * k6 * z + k7 * x;
  }
  if (count > 9) {
    const T k9 = -0.5900435899266435f * g[9], k10 = 2.890611442640554f * g[10], k11 = -0.4570457994644658f * g[11];
    const T k12 = 0.3731763325901154f * g[12], k13 = -0.4570457994644658f * g[13], k14 = 1.445305721320277f * g[14];
    const T k15 = -0.5900435899266435f * g[15];
    const T xx = x * x, yy = y * y, zz = z * z;
    o.x = o.x + 6.f * k9 * x * y + k10 * y * z - 2.f * k11 * x * y - 6.f * k12 * x * z +
          k13 * (4.f * zz - 3.f * xx - yy) + 2.f * k14 * x * z + 3.f * k15 * (xx - yy);
    o.y = o.y + 3.f * k9 * (xx - yy) + k10 * x * z + k11 * (4.f * zz - xx - 3.f * yy) - 6.f * k12 * y * z -
          2.f * k13 * x * y - 2.f * k14 * y * z - 6.f * k15 * x * y;
    o.z = o.z + k10 * x * y + 8.f * k11 * y * z + k12 * (6.f * zz - 3.f * xx - 3.f * yy) + 8.f * k13 * x * z +
          k14 * (xx - yy);
  }
  if (count > 16) o = o + sh_backward_4(d, g);
  return o;
}

// Unit vector from the eye to the mean, and their distance (never 0).
template <class T>
DL_HD Vec3<T> view_direction(Vec3<T> mean, const SplatView& c, T& distance) {
  const Vec3<T> d = {mean.x - c.eye[0], mean.y - c.eye[1], mean.z - c.eye[2]};
  distance = at_least(T(sqrt_(dot(d, d))), 1e-12f);
  return T(1.f / distance) * d;
}

}  // namespace dl
