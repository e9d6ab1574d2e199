// SPDX-License-Identifier: Apache-2.0
// sdf_lanes.h - as many rays at a time as one register of the machine holds: 16, 8 or 4.
//
// GCC 12 takes comparisons and selections of vectors wider than a register apart lane by lane, which made simd.h's 16 lanes
// eight times slower on AVX2 than on AVX-512 for this op; vectors of the register's own width stay whole everywhere.
// Included by sdf.h before its templates; do not include it by itself.
#pragma once

#if defined(__AVX__) && !defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__SSE2__) && !defined(__AVX512F__)
#include <emmintrin.h>
#endif

namespace dl {

#if defined(__AVX512F__)

constexpr int kWidth = kLanes;
typedef Vf Wf;
typedef Vi Wi;
DL_HD Wf exp_(Wf x) { return exp2_(x * 1.44269504f); }

#else

#if defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
typedef float Wf __attribute__((vector_size(4 * kWidth), may_alias));
typedef int32_t Wi __attribute__((vector_size(4 * kWidth), may_alias));

DL_HD Wf min_(Wf a, Wf b) { return a < b ? a : b; }
DL_HD Wf max_(Wf a, Wf b) { return a > b ? a : b; }
DL_HD Wf select(Wi c, Wf a, Wf b) { return c ? a : b; }
DL_HD Wf abs_(Wf x) { return (Wf)((Wi)x & 0x7fffffff); }
DL_HD Wf exp_(Wf x) {
  for (int i = 0; i < kWidth; i++) x[i] = expf(x[i]);
  return x;
}
#if defined(__AVX__)
DL_HD Wf sqrt_(Wf x) { return (Wf)_mm256_sqrt_ps((__m256)x); }
DL_HD uint32_t mask_bits(Wi c) { return uint32_t(_mm256_movemask_ps((__m256)c)); }
#elif defined(__SSE2__)
DL_HD Wf sqrt_(Wf x) { return (Wf)_mm_sqrt_ps((__m128)x); }
DL_HD uint32_t mask_bits(Wi c) { return uint32_t(_mm_movemask_ps((__m128)c)); }
#else
DL_HD Wf sqrt_(Wf x) {
  for (int i = 0; i < kWidth; i++) x[i] = sqrtf(x[i]);
  return x;
}
DL_HD uint32_t mask_bits(Wi c) {
  uint32_t m = 0;
  for (int i = 0; i < kWidth; i++) m |= uint32_t(c[i] & 1) << i;
  return m;
}
#endif
DL_HD bool any(Wi c) { return mask_bits(c) != 0; }

#endif

constexpr int kAcross = kWidth == 4 ? 2 : 4, kDown = kWidth / kAcross;  // the shape of a packet

DL_HD Wf fill_lanes(float x) { return x - Wf{}; }
DL_HD Wf lane_column() {
  Wf x;
  for (int i = 0; i < kWidth; i++) x[i] = float(i % kAcross);
  return x;
}
DL_HD Wf lane_line() {
  Wf x;
  for (int i = 0; i < kWidth; i++) x[i] = float(i / kAcross);
  return x;
}

}  // namespace dl
