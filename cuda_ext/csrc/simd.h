// SPDX-License-Identifier: Apache-2.0
// simd.h - 16 floats at a time, on every CPU: GCC/Clang vector types. With AVX-512 one register; elsewhere two (AVX) or
// four (SSE2, NEON) held side by side, because GCC breaks comparisons and choices of vectors wider than the machine's
// into single numbers. A few hot operations have a spelling of their own.
// Included by common.h; do not include it by itself.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace dl {

constexpr int kLanes = 16;

#if defined(__AVX512F__)
typedef float Vf __attribute__((vector_size(64)));
typedef int32_t Vi __attribute__((vector_size(64)));  // also a mask: 0 or -1 per lane
typedef uint32_t Vu __attribute__((vector_size(64), may_alias));  // wraps around, as a hash must

DL_HD Vi bits(Vf x) { return (Vi)x; }
DL_HD Vf from_bits(Vi x) { return (Vf)x; }
DL_HD Vf to_float(Vi x) { return __builtin_convertvector(x, Vf); }
DL_HD Vi to_int(Vf x) { return __builtin_convertvector(x, Vi); }  // towards zero
DL_HD Vu to_unsigned(Vi x) { return (Vu)x; }
DL_HD Vf select(Vi c, Vf a, Vf b) { return c ? a : b; }
DL_HD Vi select(Vi c, Vi a, Vi b) { return c ? a : b; }
// x y - z with one rounding.
DL_HD Vf fused(Vf x, float y, Vf z) { return (Vf)_mm512_fmsub_ps((__m512)x, _mm512_set1_ps(y), (__m512)z); }
#else
#include "simd_twin.h"
#endif

DL_HD Vf splat_f(float x) { return x - Vf{}; }
DL_HD Vi splat_i(int32_t x) { return x - Vi{}; }
DL_HD Vf load(const float* p) { Vf v; memcpy(&v, p, sizeof v); return v; }
DL_HD void store(float* p, Vf v) { memcpy(p, &v, sizeof v); }
DL_HD Vi load(const int32_t* p) { Vi v; memcpy(&v, p, sizeof v); return v; }
DL_HD void store(int32_t* p, Vi v) { memcpy(p, &v, sizeof v); }
DL_HD Vu load(const uint32_t* p) { Vu v; memcpy(&v, p, sizeof v); return v; }
DL_HD void store(uint32_t* p, Vu v) { memcpy(p, &v, sizeof v); }
DL_HD Vi lane_index() {
  const int32_t index[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load(index);
}

#if defined(__AVX512F__)
DL_HD Vf sqrt_(Vf x) { return (Vf)_mm512_sqrt_ps((__m512)x); }
DL_HD Vf min_(Vf a, Vf b) { return (Vf)_mm512_min_ps((__m512)a, (__m512)b); }
DL_HD Vf max_(Vf a, Vf b) { return (Vf)_mm512_max_ps((__m512)a, (__m512)b); }
// One bit per lane.
DL_HD uint32_t mask_bits(Vi c) { return _mm512_movepi32_mask((__m512i)c); }
#else
DL_HD Vf min_(Vf a, Vf b) { return select(a < b, a, b); }
DL_HD Vf max_(Vf a, Vf b) { return select(a > b, a, b); }
#endif

DL_HD Vf abs_(Vf x) { return from_bits(bits(x) & 0x7fffffff); }
DL_HD Vi finite_(Vf x) { return (x - x) == 0.f; }
DL_HD bool any(Vi c) { return mask_bits(c) != 0; }

#if defined(__AVX512F__)
// 1 / x for normal x, relative error < 2^-22.
DL_HD Vf reciprocal(Vf x) {
  const Vf r = (Vf)_mm512_rcp14_ps((__m512)x);
  return r * (2.f - x * r);
}
#else
DL_HD Vf reciprocal(Vf x) { return 1.f / x; }
#endif

// Sum of the lanes, always in the same order.
DL_HD float sum(Vf x) {
  float s[kLanes];
  store(s, x);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; i++) s[i] += s[i + half];
  return s[0];
}

// 2^x for x <= 127, relative error < 3e-7 above 2^-125 (bound by test); between 0 and 2^-125 below that.
// Split at the nearest integer (in portable code by adding 1.5 * 2^23), a degree 5 polynomial on [-1/2, 1/2].
DL_HD Vf exp2_(Vf x) {
#if defined(__AVX512F__)
  const Vf whole = (Vf)_mm512_roundscale_ps((__m512)x, 0);
  const Vf f = x - whole;
#else
  x = max_(x, splat_f(-126.f));
  const Vf shifted = x + 12582912.f;
  const Vf f = x - (shifted - 12582912.f);
#endif
  Vf p = 1.3276472e-3f * f + 9.6755419e-3f;
  p = p * f + 5.5507131e-2f;
  p = p * f + 2.4022120e-1f;
  p = p * f + 6.9314694e-1f;
  p = p * f + 1.0000001f;
#if defined(__AVX512F__)
  return (Vf)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
  return from_bits(bits(p) + (bits(shifted) << 23));
#endif
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

// Rows to columns: x[i][j] becomes x[j][i].
inline void transpose(Vf x[kLanes]) {
#if defined(__AVX512F__)
  for (int half = 1; half < kLanes; half *= 2) {
    const Vi lane = lane_index(), upper = (lane & half) != 0;
    const Vi low = upper ? lane - half + kLanes : lane, high = upper ? lane + kLanes : lane + half;
    for (int i = 0; i < kLanes; i++) {
      if (i & half) continue;
      const __m512 a = (__m512)x[i], b = (__m512)x[i + half];
      x[i] = (Vf)_mm512_permutex2var_ps(a, (__m512i)low, b);
      x[i + half] = (Vf)_mm512_permutex2var_ps(a, (__m512i)high, b);
    }
  }
#else
  alignas(64) float in[kLanes][kLanes], out[kLanes][kLanes];
  for (int i = 0; i < kLanes; i++) store(in[i], x[i]);
  for (int i = 0; i < kLanes; i++)
    for (int j = 0; j < kLanes; j++) out[j][i] = in[i][j];
  for (int i = 0; i < kLanes; i++) x[i] = load(out[i]);
#endif
}

// Three vectors to 16 triples x0 y0 z0 x1 ... (48 floats), and back.
inline void interleave3(const Vf in[3], float* out) {
#if defined(__AVX512F__)
  const Vi lane = lane_index();
  for (int v = 0; v < 3; v++) {
    const Vi flat = lane + kLanes * v, row = (flat * 21846) >> 16, column = flat - 3 * row;  // flat / 3 for flat < 48
    const Vi first = (column == 1) ? row + kLanes : row, second = (column == 2) ? row + kLanes : lane;
    const __m512 xy = _mm512_permutex2var_ps((__m512)in[0], (__m512i)first, (__m512)in[1]);
    store(out + kLanes * v, (Vf)_mm512_permutex2var_ps(xy, (__m512i)second, (__m512)in[2]));
  }
#else
  for (int l = 0; l < kLanes; l++)
    for (int i = 0; i < 3; i++) out[3 * l + i] = in[i][l];
#endif
}

inline void deinterleave3(const float* in, Vf out[3]) {
#if defined(__AVX512F__)
  const Vi lane = lane_index();
  for (int i = 0; i < 3; i++) {
    const Vi flat = 3 * lane + i;  // up to 31 in the first two vectors
    const Vi last = flat >= 2 * kLanes ? flat - kLanes : lane;
    const __m512 ab = _mm512_permutex2var_ps((__m512)load(in), (__m512i)flat, (__m512)load(in + kLanes));
    out[i] = (Vf)_mm512_permutex2var_ps(ab, (__m512i)last, (__m512)load(in + 2 * kLanes));
  }
#else
  for (int l = 0; l < kLanes; l++)
    for (int i = 0; i < 3; i++) out[i][l] = in[3 * l + i];
#endif
}

}  // namespace dl
