// SPDX-License-Identifier: Apache-2.0
// splat_scalar_cpu.cpp - the baseline of the benchmarks, used nowhere else: `splat` as a plain loop, one thread.
//
// Splats are sorted by depth; each visits the pixels of its box, and every pixel keeps its own sums and
// transmittance. The backward pass visits them from the back. Same equations, same cut-offs, same outputs.
// The box is the tightest there is (`tight`), or the square around the radius, as published rasterisers have it.
#include <algorithm>
#include <vector>

#include "splat.h"

namespace {

using namespace dl;

SplatInput<float> input_of(const SplatParams& p, int64_t n) {
  const float *m = p.means + 3 * n, *q = p.quats + 4 * n, *s = p.scales + 3 * n;
  return {{m[0], m[1], m[2]}, {q[0], q[1], q[2], q[3]}, {s[0], s[1], s[2]}, p.opacities[n]};
}

// Half size, px.
struct Box {
  float x, y;
};

std::vector<Box> project_all(const SplatParams& p, int b, bool tight) {
  std::vector<Box> boxes(size_t(p.count));
  const SplatView view = view_of(p, b);
  for (int64_t n = 0; n < p.count; n++) {
    const SplatInput<float> in = input_of(p, n);
    const Projection<float> s = project(in, view, p.options);
    SplatRecord& r = p.records[b * p.count + n];
    float index, sign;
    Box& box = boxes[size_t(n)];
    const bool keep = visible(s, 2.f * logf(s.opacity / kMinAlpha), view, p.options, box.x, box.y, r.radius);
    if (!keep) r.radius = 0.f;
    if (!tight) box.x = box.y = r.radius;
    r.u = s.u, r.v = s.v, r.a = s.qa, r.b = s.qb, r.c = s.qc, r.top = s.opacity;
    const Vec3<float> normal = facing_normal(in, s, view, index, sign);
    const float features[7] = {p.colors[3 * n], p.colors[3 * n + 1], p.colors[3 * n + 2], s.at.z, normal.x, normal.y, normal.z};
    std::copy(features, features + 7, r.feature);
  }
  return boxes;
}

std::vector<int32_t> depth_order(const SplatParams& p, int b) {
  const SplatRecord* r = p.records + b * p.count;
  std::vector<int32_t> order;
  for (int64_t n = 0; n < p.count; n++)
    if (r[n].radius > 0.f) order.push_back(int32_t(n));
  std::stable_sort(order.begin(), order.end(), [r](int32_t i, int32_t j) { return r[i].feature[3] < r[j].feature[3]; });
  return order;
}

// Calls visit(pixel, dx, dy) on the pixel centres of the splat's box.
template <class Visit>
void for_pixels(const SplatParams& p, const SplatRecord& r, const Box& box, Visit visit) {
  const int x0 = int(max_(0.f, ceilf(r.u - box.x - 0.5f))), x1 = int(min_(p.width - 1.f, floorf(r.u + box.x - 0.5f)));
  const int y0 = int(max_(0.f, ceilf(r.v - box.y - 0.5f))), y1 = int(min_(p.height - 1.f, floorf(r.v + box.y - 0.5f)));
  for (int y = y0; y <= y1; y++)
    for (int x = x0; x <= x1; x++) visit(int64_t(y) * p.width + x, x + 0.5f - r.u, y + 0.5f - r.v);
}

float free_alpha(const SplatRecord& r, float dx, float dy) {
  return r.top * expf(-0.5f * (r.a * dx * dx + r.c * dy * dy) - r.b * dx * dy);
}

void forward_view(const SplatParams& p, int b, bool tight) {
  const std::vector<Box> boxes = project_all(p, b, tight);
  const int64_t pixels = int64_t(p.height) * p.width, first = b * pixels;
  float *through = p.through + first, *rgb = p.rgb + 3 * first, *depth = p.depth + first, *normal = p.normal + 3 * first;
  std::fill(through, through + pixels, 1.f);
  std::fill(rgb, rgb + 3 * pixels, 0.f);
  std::fill(depth, depth + pixels, 0.f);
  std::fill(normal, normal + 3 * pixels, 0.f);
  std::fill(p.last + first, p.last + first + pixels, -1);
  const std::vector<int32_t> order = depth_order(p, b);
  for (size_t rank = 0; rank < order.size(); rank++) {
    const SplatRecord& r = p.records[b * p.count + order[rank]];
    for_pixels(p, r, boxes[size_t(order[rank])], [&](int64_t at, float dx, float dy) {
      if (through[at] < kMinTransmittance) return;
      const float alpha = min_(kMaxAlpha, free_alpha(r, dx, dy));
      if (alpha < kMinAlpha) return;
      const float weight = alpha * through[at];
      for (int i = 0; i < 3; i++) {
        rgb[3 * at + i] += weight * r.feature[i];
        normal[3 * at + i] += weight * r.feature[4 + i];
      }
      depth[at] += weight * r.feature[3];
      through[at] -= weight;
      p.last[first + at] = int32_t(rank);
    });
  }
  for (int64_t i = 0; i < pixels; i++) {
    p.alpha[first + i] = 1.f - through[i];
    if (through[i] < 1.f) depth[i] /= 1.f - through[i];
    for (int c = 0; c < 3 && p.background; c++) rgb[3 * i + c] += through[i] * p.background[3 * b + c];
  }
}

void backward_view(const SplatParams& p, int b, bool tight, std::vector<float>& rows) {
  const std::vector<Box> boxes = project_all(p, b, tight);
  const int64_t pixels = int64_t(p.height) * p.width, first = b * pixels;
  const float* g_rgb = p.g_rgb + 3 * first;
  std::vector<float> through(p.through + first, p.through + first + pixels), behind(size_t(pixels), 0.f);
  for (int64_t i = 0; i < pixels; i++)
    for (int c = 0; c < 3 && p.background; c++) behind[size_t(i)] += through[size_t(i)] * g_rgb[3 * i + c] * p.background[3 * b + c];
  const std::vector<int32_t> order = depth_order(p, b);
  for (size_t rank = order.size(); rank-- > 0;) {
    const SplatRecord& r = p.records[b * p.count + order[rank]];
    float* row = rows.data() + 9 * size_t(order[rank]);
    for_pixels(p, r, boxes[size_t(order[rank])], [&](int64_t at, float dx, float dy) {
      if (int32_t(rank) > p.last[first + at]) return;
      const float free = free_alpha(r, dx, dy), alpha = min_(kMaxAlpha, free);
      if (alpha < kMinAlpha) return;
      const float keep = 1.f / (1.f - alpha), before = through[size_t(at)] * keep, weight = alpha * before;
      float colour = 0.f;
      for (int i = 0; i < 3; i++) {
        colour += g_rgb[3 * at + i] * r.feature[i];
        row[i] += weight * g_rgb[3 * at + i];
      }
      const float slope = free < kMaxAlpha ? alpha * (before * colour - behind[size_t(at)] * keep) : 0.f;
      behind[size_t(at)] += weight * colour;
      through[size_t(at)] = before;
      row[3] += slope;
      row[4] += slope * dx;
      row[5] += slope * dy;
      row[6] += slope * dx * dx;
      row[7] += slope * dx * dy;
      row[8] += slope * dy * dy;
    });
  }
}

void splats_backward(const SplatParams& p, int b, const std::vector<float>& rows) {
  const SplatView view = view_of(p, b);
  for (int64_t n = 0; n < p.count; n++) {
    if (p.records[b * p.count + n].radius == 0.f) continue;
    const float* row = rows.data() + 9 * n;
    const SplatInput<float> in = input_of(p, n);
    const Projection<float> s = project(in, view, p.options);
    const float feature[7] = {row[0], row[1], row[2], 0.f, 0.f, 0.f, 0.f};
    const ProjectionGrad<float> g = from_moments(s, row + 3, feature);
    SplatInput<float> d = {};
    project_backward(in, s, view, p.options, g, 0.f, 1.f, d);
    const float mean[3] = {d.mean.x, d.mean.y, d.mean.z}, scale[3] = {d.scale.x, d.scale.y, d.scale.z};
    for (int i = 0; i < 3; i++) p.d_means[3 * n + i] += mean[i], p.d_scales[3 * n + i] += scale[i], p.d_colors[3 * n + i] += row[i];
    for (int i = 0; i < 4; i++) p.d_quats[4 * n + i] += d.quat[i];
    p.d_opacities[n] += d.opacity;
  }
}

}  // namespace

// Colours, no spherical harmonics and no extra channels.
DL_API void dl_scalar_forward(const dl::SplatParams* params, int tight) {
  for (int b = 0; b < params->views; b++) forward_view(*params, b, tight);
}

// Gradient of rgb only; d_* must be zero.
DL_API void dl_scalar_backward(const dl::SplatParams* params, int tight) {
  for (int b = 0; b < params->views; b++) {
    std::vector<float> rows(size_t(params->count) * 9, 0.f);
    backward_view(*params, b, tight, rows);
    splats_backward(*params, b, rows);
  }
}
