// SPDX-License-Identifier: Apache-2.0
// march.h - one ray through an occupancy grid, and compositing one ray; shared by march_cpu.cpp and march_cuda.cu.
// The definition is reference/march.py; every cut (which interval exists, which cell it asks) rounds as it does there.
#pragma once
#include "common.h"

namespace dl {

struct MarchParams {
  const float* origins;      // [rays, 3]
  const float* directions;   // [rays, 3]
  const float* jitter;       // [rays] or null
  const uint8_t* occupied;   // [size] cells
  uint8_t* coarse[2];        // any occupied cell in a block of 4^3, of 16^3 cells
  uint64_t* kept;            // [rays, words] bit k: interval k is kept
  int64_t* offsets;          // [rays + 1]
  float* t_start;            // [capacity]
  float* t_end;              // [capacity]
  int64_t rays;
  int64_t capacity;          // room for intervals
  int32_t size[3];
  int32_t steps;             // intervals 0..steps-1 are looked at
  int32_t words;             // of 64 bits per ray
  float low[3], high[3];     // the box
  float step, near, far, cone;
};

DL_HD float floor_(float x) { return floorf(x); }

// a * b + c with one rounding, so that no compiler's choice about fused operations moves a sample.
DL_HD float fused(float a, float b, float c) {
#if defined(__FMA__) || defined(__CUDA_ARCH__) || defined(__aarch64__)
  return fmaf(a, b, c);
#else
  return static_cast<float>(static_cast<double>(a) * b + c);
#endif
}

struct Ray {
  float origin[3], direction[3];
  float start, end;  // part inside the box and the clip range; start >= end: nothing to see
  float shift;       // of the first interval, in intervals
};

DL_HD Ray load_ray(const MarchParams& p, int64_t index) {
  Ray ray;
  ray.start = p.near, ray.end = p.far;
  bool valid = true;
  for (int a = 0; a < 3; a++) {
    const float o = p.origins[3 * index + a], d = p.directions[3 * index + a];
    ray.origin[a] = o, ray.direction[a] = d;
    valid = valid && finite_(o) && finite_(d);
    const float inverse = 1.f / d;
    const float first = (p.low[a] - o) * inverse, second = (p.high[a] - o) * inverse;
    if (d == 0.f) {
      valid = valid && o >= p.low[a] && o <= p.high[a];
      continue;
    }
    ray.start = max_(ray.start, min_(first, second)), ray.end = min_(ray.end, max_(first, second));
    valid = valid && first == first && second == second;  // 0 * Inf
  }
  if (!valid || !finite_(ray.start) || !finite_(ray.end)) ray.end = ray.start = 0.f;
  ray.shift = p.jitter ? p.jitter[index] : 0.f;
  if (!finite_(ray.shift)) ray.end = ray.start;
  return ray;
}

// Interval k of a ray: [t, t + width].
struct Interval {
  int k;
  float t, width;
};

DL_HD float interval_width(const MarchParams& p, float t) { return p.cone > 0.f ? max_(t * p.cone, p.step) : p.step; }

DL_HD Interval first_interval(const MarchParams& p, const Ray& ray) {
  const float t = fused(ray.shift, interval_width(p, ray.start), ray.start);
  return {0, t, interval_width(p, t)};
}

// The interval after `i`, or interval k >= i.k + 1 when all intervals are equally long.
DL_HD Interval next_interval(const MarchParams& p, const Ray& ray, const Interval& i, int k) {
  if (p.cone > 0.f) {
    const float t = i.t + i.width;
    return {i.k + 1, t, interval_width(p, t)};
  }
  return {k, fused(static_cast<float>(k) + ray.shift, p.step, ray.start), p.step};
}

DL_HD int jump(float ahead, int next) {
  return ahead >= static_cast<float>(next) ? static_cast<int>(min_(ahead, 65536.f)) : next;
}

// Calls keep(interval) for every interval whose middle lies in an occupied cell, in order. Empty blocks of 16^3 and 4^3
// cells and empty cells are crossed in one go; the jump stops short of the border by more than the rounding.
template <class Keep>
DL_HD void walk(const MarchParams& p, const Ray& ray, Keep& keep) {
  if (!(ray.start < ray.end)) return;
  Interval i = first_interval(p, ray);
  while (i.k < p.steps) {
    const float middle = i.t + 0.5f * i.width;
    if (!(middle < ray.end)) return;
    int cell[3];
    float scale[3];
    for (int a = 0; a < 3; a++) {
      scale[a] = static_cast<float>(p.size[a]) / (p.high[a] - p.low[a]);
      const float x = floor_((fused(ray.direction[a], middle, ray.origin[a]) - p.low[a]) * scale[a]);
      cell[a] = static_cast<int>(max_(min_(x, static_cast<float>(p.size[a] - 1)), 0.f));
    }
    int shift = 4;  // log2 of the side of the largest empty block around the cell; -1: the cell is occupied
    for (int level = 1; level >= -1; level--, shift -= 2) {
      const int ny = ((p.size[1] - 1) >> shift) + 1, nz = ((p.size[2] - 1) >> shift) + 1;
      const int64_t at = (static_cast<int64_t>(cell[0] >> shift) * ny + (cell[1] >> shift)) * nz + (cell[2] >> shift);
      if (!(level >= 0 ? p.coarse[level] : p.occupied)[at]) break;
    }
    if (shift < 0) {
      keep(i);
      i = next_interval(p, ray, i, i.k + 1);
      continue;
    }
    float leave = ray.end;
    for (int a = 0; a < 3; a++) {
      if (ray.direction[a] == 0.f) continue;
      const int border = ((cell[a] >> shift) + (ray.direction[a] > 0.f)) << shift;
      leave = min_(leave, (p.low[a] + static_cast<float>(border) / scale[a] - ray.origin[a]) / ray.direction[a]);
    }
    leave -= 1e-2f * i.width + 1e-5f * (abs_(leave) + abs_(ray.origin[0]) + abs_(ray.origin[1]) + abs_(ray.origin[2]));
    if (p.cone > 0.f) {
      do i = next_interval(p, ray, i, i.k + 1);
      while (i.k < p.steps && i.t + 0.5f * i.width < leave);
    } else {
      const float ahead = (leave - ray.start) / p.step - ray.shift - 0.5f;  // the first interval that may be outside
      i = next_interval(p, ray, i, jump(ahead, i.k + 1));
    }
  }
}

// Leaves a bit for every kept interval.
struct KeepBit {
  uint64_t* bits;
  int64_t count;
  DL_HD void operator()(const Interval& i) { bits[i.k / 64] |= uint64_t{1} << (i.k % 64), count++; }
};

// Turns a ray's bits into its packed intervals.
DL_HD void write_ray(const MarchParams& p, int64_t ray_index) {
  int64_t at = p.offsets[ray_index];
  const int64_t all = p.offsets[ray_index + 1], end = all < p.capacity ? all : p.capacity;
  if (at >= end) return;
  const Ray ray = load_ray(p, ray_index);
  const uint64_t* bits = p.kept + ray_index * p.words;
  Interval i = first_interval(p, ray);
  for (int32_t k = 0; at < end; k++) {
    if (p.cone == 0.f && bits[k / 64] >> (k % 64) == 0) {  // nothing more in this word
      k |= 63;
      continue;
    }
    if (i.k != k) i = next_interval(p, ray, i, k);
    if (!(bits[k / 64] >> (k % 64) & 1)) continue;
    p.t_start[at] = i.t, p.t_end[at] = i.t + i.width;
    at++;
  }
}

struct CompositeParams {
  const float* sigma;      // [count]
  const float* rgb;        // [count, channels]
  const float* t_start;    // [count]
  const float* t_end;      // [count]
  const int64_t* offsets;  // [rays + 1]
  float* out;              // [rays, channels]
  float* sums;             // [rays, 4] alpha, depth, distortion; sum of w (t - base), see composite_ray
  float* weights;          // [count]
  const float* grad_out;   // cotangents, shaped like what they belong to; any may be null
  const float* grad_sums;  // its last column is not read
  const float* grad_weights;
  float* grad_sigma;       // [count]
  float* grad_rgb;         // [count, channels]
  float* light;            // [count] scratch of the backward pass
  int64_t rays, count;
  int32_t channels;
  float stop;              // intervals that less than this part of the light reaches are skipped
};

template <class T>
DL_HD T optical_depth(T sigma, T t_start, T t_end) { return select(sigma < 0.f, T{}, sigma) * (t_end - t_start); }

// 1 - exp(-tau), precise for thin intervals where the subtraction would cancel. `decay` is exp(-tau).
template <class T>
DL_HD T opacity(T tau, T decay) {
  T series = 1.f - tau * (1.f / 6.f);
  series = 1.f - tau * (1.f / 5.f) * series;
  series = 1.f - tau * (1.f / 4.f) * series;
  series = 1.f - tau * (1.f / 3.f) * series;
  series = 1.f - tau * (1.f / 2.f) * series;
  return select(tau < 0.25f, tau * series, 1.f - decay);
}

// First (ray) or end (ray + 1) of a ray's intervals; bad offsets never leave the arrays.
DL_HD int64_t interval_at(const CompositeParams& p, int64_t ray) {
  const int64_t at = p.offsets[ray];
  return at < 0 ? 0 : (at < p.count ? at : p.count);
}

// Sums of one ray. On entry weights[i] holds the opacity of interval i, on return its weight. Depths are summed up from
// `base`, the ray's first end: the distortion is a difference of such sums and would cancel far from the camera.
DL_HD void composite_ray(const CompositeParams& p, int64_t ray) {
  const int64_t begin = interval_at(p, ray), end = interval_at(p, ray + 1);
  float* out = p.out + ray * p.channels;
  for (int c = 0; c < p.channels; c++) out[c] = 0.f;
  const float base = begin < end ? p.t_start[begin] : 0.f;
  float light = 1.f, mass = 0.f, moment = 0.f, between = 0.f, within = 0.f;
  for (int64_t i = begin; i < end; i++) {
    const bool alive = !(light < p.stop);
    const float w = alive ? light * p.weights[i] : 0.f;
    p.weights[i] = w;
    if (!alive) continue;
    light -= w;
    const float middle = 0.5f * ((p.t_start[i] - base) + (p.t_end[i] - base));
    between += w * (middle * mass - moment);
    within += w * w * (p.t_end[i] - p.t_start[i]);
    mass += w, moment += w * middle;
    for (int c = 0; c < p.channels; c++) out[c] += w * p.rgb[i * p.channels + c];
  }
  float* sums = p.sums + 4 * ray;
  sums[0] = mass, sums[1] = moment + base * mass, sums[2] = 2.f * between + within * (1.f / 3.f), sums[3] = moment;
}

// Gradients of one ray. On entry light[i] holds the opacity of interval i. With G_i = dL/dw_i and the light T:
// dL/dsigma_i = dt_i (T_{i+1} G_i - sum over j > i of w_j G_j), the sum taken from the far end.
DL_HD void composite_ray_backward(const CompositeParams& p, int64_t ray) {
  const int64_t begin = interval_at(p, ray), end = interval_at(p, ray + 1);
  const float* g_out = p.grad_out ? p.grad_out + ray * p.channels : nullptr;
  float g_sums[3] = {0.f, 0.f, 0.f};
  for (int k = 0; k < 3 && p.grad_sums; k++) g_sums[k] = p.grad_sums[4 * ray + k];
  const float mass = p.sums[4 * ray], moment = p.sums[4 * ray + 3], base = begin < end ? p.t_start[begin] : 0.f;
  float light = 1.f, near_mass = 0.f, near_moment = 0.f;
  for (int64_t i = begin; i < end; i++) {
    const bool alive = !(light < p.stop);
    const float w = p.weights[i], width = p.t_end[i] - p.t_start[i];
    const float middle = 0.5f * ((p.t_start[i] - base) + (p.t_end[i] - base));
    const float side = middle * (2.f * near_mass + w - mass) - (2.f * near_moment + w * middle - moment);
    float g = g_sums[0] + g_sums[1] * (base + middle) + g_sums[2] * (2.f * side + w * width * (2.f / 3.f));
    if (p.grad_weights) g += p.grad_weights[i];
    for (int c = 0; c < p.channels; c++) {
      const float go = g_out ? g_out[c] : 0.f;
      g += go * p.rgb[i * p.channels + c];
      p.grad_rgb[i * p.channels + c] = alive ? w * go : 0.f;
    }
    near_mass += w, near_moment += w * middle;
    if (alive) light -= w;
    p.light[i] = light;
    p.grad_sigma[i] = alive ? g : 0.f;
  }
  float behind = 0.f;
  for (int64_t i = end - 1; i >= begin; i--) {
    const float g = p.grad_sigma[i];
    const bool alive = i == begin || !(p.light[i - 1] < p.stop);
    p.grad_sigma[i] = alive && p.sigma[i] >= 0.f ? (p.t_end[i] - p.t_start[i]) * (p.light[i] * g - behind) : 0.f;
    behind += p.weights[i] * g;
  }
}

}  // namespace dl
