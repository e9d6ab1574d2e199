// SPDX-License-Identifier: Apache-2.0
// simd.h - 16 floats at a time, on every CPU: GCC/Clang vector types, which the compiler lowers to one 512-bit,
// two 256-bit or four 128-bit operations. A few hot operations have an AVX-512 spelling.
// Included by common.h; do not include it by itself.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace dl {

constexpr int kLanes = 16;
typedef float Vf __attribute__((vector_size(64), may_alias));
typedef int32_t Vi __attribute__((vector_size(64), may_alias));  // also a mask: 0 or -1 per lane

DL_HD Vf splat_f(float x) { return x - Vf{}; }
DL_HD Vi splat_i(int32_t x) { return x - Vi{}; }
DL_HD Vf load(const float* p) { Vf v; memcpy(&v, p, sizeof v); return v; }
DL_HD void store(float* p, Vf v) { memcpy(p, &v, sizeof v); }
DL_HD Vi load(const int32_t* p) { Vi v; memcpy(&v, p, sizeof v); return v; }
DL_HD void store(int32_t* p, Vi v) { memcpy(p, &v, sizeof v); }
DL_HD Vi bits(Vf x) { return (Vi)x; }
DL_HD Vf from_bits(Vi x) { return (Vf)x; }
DL_HD Vi lane_index() { return Vi{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }
DL_HD Vf to_float(Vi x) { return __builtin_convertvector(x, Vf); }

#if defined(__AVX512F__)
DL_HD Vf sqrt_(Vf x) { return (Vf)_mm512_sqrt_ps((__m512)x); }
DL_HD Vf min_(Vf a, Vf b) { return (Vf)_mm512_min_ps((__m512)a, (__m512)b); }
DL_HD Vf max_(Vf a, Vf b) { return (Vf)_mm512_max_ps((__m512)a, (__m512)b); }
// One bit per lane.
DL_HD uint32_t mask_bits(Vi c) { return _mm512_movepi32_mask((__m512i)c); }
#else
DL_HD Vf sqrt_(Vf x) {
  for (int i = 0; i < kLanes; i++) x[i] = sqrtf(x[i]);
  return x;
}
DL_HD Vf min_(Vf a, Vf b) { return a < b ? a : b; }
DL_HD Vf max_(Vf a, Vf b) { return a > b ? a : b; }
DL_HD uint32_t mask_bits(Vi c) {
  uint32_t m = 0;
  for (int i = 0; i < kLanes; i++) m |= uint32_t(c[i] & 1) << i;
  return m;
}
#endif

DL_HD Vf select(Vi c, Vf a, Vf b) { return c ? a : b; }
DL_HD Vf abs_(Vf x) { return from_bits(bits(x) & 0x7fffffff); }
DL_HD Vi finite_(Vf x) { return (x - x) == 0.f; }
DL_HD bool any(Vi c) { return mask_bits(c) != 0; }

// Sum of the lanes, always in the same order.
DL_HD float sum(Vf x) {
  float s[kLanes];
  store(s, x);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; i++) s[i] += s[i + half];
  return s[0];
}

// 2^x for x <= 127, relative error < 2.5e-7 above 2^-126 (bound by test); 2^-126 below that.
// Round to the nearest integer by adding 1.5 * 2^23, a degree 5 polynomial on [-1/2, 1/2], then add to the exponent.
DL_HD Vf exp2_(Vf x) {
  x = max_(x, splat_f(-126.f));
  const Vf shifted = x + 12582912.f;
  const Vf f = x - (shifted - 12582912.f);
  Vf p = 1.3276472e-3f * f + 9.6755120e-3f;
  p = p * f + 5.5507133e-2f;
  p = p * f + 2.4022120e-1f;
  p = p * f + 6.9314698e-1f;
  p = p * f + 1.0000001f;
  return from_bits(bits(p) + (bits(shifted) << 23));
}

// log2 of a positive normal x, absolute error < 2e-6 (bound by test); the argument of 0 and of denormals is 2^-126.
// Split at sqrt(1/2), then 2/ln 2 * atanh((m - 1) / (m + 1)).
DL_HD Vf log2_(Vf x) {
  const Vi i = bits(max_(x, splat_f(1.17549435e-38f)));
  const Vi e = (i - 0x3f3504f3) >> 23;
  const Vf m = from_bits(i - (e << 23));
  const Vf t = (m - 1.f) / (m + 1.f), t2 = t * t;
  Vf p = 0.43174213f * t2 + 0.57671416f;
  p = p * t2 + 0.96179885f;
  p = p * t2 + 2.8853900f;
  return p * t + to_float(e);
}

}  // namespace dl
