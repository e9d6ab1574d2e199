// SPDX-License-Identifier: Apache-2.0
// modulate.h - a norm over rows, scaled and shifted per sample, and SiLU, in one pass; arithmetic in float32.
//
//   n = (x - mean) / sqrt(variance + eps)   (or x itself),   u = n (1 + a) + b,   y = u sigmoid(u)   (or u itself)
//
// Its twin is cuda_ext/reference/modulate.py.
#pragma once
#include "bfloat.h"

namespace dl {

struct ModulateParams {
  const void* x;     // [samples, rows, groups x width], rows `stride` numbers apart
  const void* told;  // [samples, 2 x width] a, then b, `told_stride` numbers apart; null: zeros. Then there is one group
  int64_t samples, rows, groups, width, stride, told_stride;
  int32_t half, normed, silu;  // bfloat16 in memory; n as above; y as above
};

constexpr float kNormEps = 1e-5f;  // of torch's layer_norm
constexpr float kLog2E = 1.44269504f;

template <class T>
DL_HD T spread(float x, T) { return T{} + x; }

template <class T>
DL_HD T sigmoid(T u) {
  return reciprocal(exp2_(min_(-kLog2E * u, spread(126.f, u))) + 1.f);
}

template <class T>
DL_HD T silu(T u) { return u * sigmoid(u); }

// d silu / du.
template <class T>
DL_HD T silu_slope(T u) {
  const T s = sigmoid(u);
  return s * (u * (1.f - s) + 1.f);
}

}  // namespace dl
