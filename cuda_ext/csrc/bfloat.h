// SPDX-License-Identifier: Apache-2.0
// bfloat.h - bfloat16 in memory, float in registers: single numbers everywhere, 16 at a time on the host.
#pragma once
#include "common.h"

namespace dl {

struct Bf16 {
  uint16_t bits;
};

union Word {
  float number;
  uint32_t bits;
};

DL_HD float wide(float x) { return x; }
DL_HD float wide(Bf16 x) {
  Word word;
  word.bits = uint32_t(x.bits) << 16;
  return word.number;
}

DL_HD void put(float* to, float x) { *to = x; }
// To the nearest, ties to even; what is not a number stays none.
DL_HD void put(Bf16* to, float x) {
  Word word;
  word.number = x;
  const uint32_t rounded = (word.bits + 0x7fffu + (word.bits >> 16 & 1u)) >> 16;
  to->bits = uint16_t(x == x ? rounded : word.bits >> 16 | 0x40u);
}

#if !defined(__CUDACC__) && !defined(__CUDACC_RTC__)

typedef uint16_t Vh __attribute__((vector_size(32)));

#if defined(__AVX512F__)
DL_HD Vi words(Vh x) { return __builtin_convertvector(x, Vi); }
DL_HD Vh halves(Vi x) { return __builtin_convertvector(x, Vh); }
#else
DL_HD Vi words(Vh x) {
  int32_t word[kLanes];
  for (int i = 0; i < kLanes; ++i) word[i] = x[i];
  return load(word);
}
DL_HD Vh halves(Vi x) {
  int32_t word[kLanes];
  Vh half;
  store(word, x);
  for (int i = 0; i < kLanes; ++i) half[i] = uint16_t(word[i]);
  return half;
}
#endif
DL_HD Vf widened(Vh x) { return from_bits(words(x) << 16); }
DL_HD Vh narrowed(Vf x) {
  const Vi word = bits(x), rounded = word + 0x7fff + (word >> 16 & 1);
  return halves(select(x == x, rounded, word | 0x400000) >> 16);
}

// The first `count` of 16 numbers, zeros after them; and as many stored.
DL_HD Vf take(const float* from, int count) {
  if (count == kLanes) return load(from);
#if defined(__AVX512F__)
  return (Vf)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from);
#else
  float some[kLanes] = {};
  memcpy(some, from, count * sizeof(float));
  return load(some);
#endif
}
DL_HD Vf take(const Bf16* from, int count) {
  Vh some = {};
#if defined(__AVX512F__)
  if (count != kLanes) return widened((Vh)_mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), from));
#endif
  memcpy(&some, from, count * sizeof(Bf16));
  return widened(some);
}
DL_HD void give(float* to, Vf x, int count) {
#if defined(__AVX512F__)
  if (count != kLanes) return _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), (__m512)x);
#endif
  memcpy(to, &x, count * sizeof(float));
}
DL_HD void give(Bf16* to, Vf x, int count) {
  const Vh some = narrowed(x);
#if defined(__AVX512F__)
  if (count != kLanes) return _mm256_mask_storeu_epi16(to, __mmask16((1u << count) - 1), (__m256i)some);
#endif
  memcpy(to, &some, count * sizeof(Bf16));
}

#endif

}  // namespace dl
