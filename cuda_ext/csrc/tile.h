// SPDX-License-Identifier: Apache-2.0
// tile.h - eight rows of a matrix product, up to 48 columns wide, in registers; bfloat16 pairs by the machine's own
// instruction where it has one. For CPU launchers.
//
// The right factor is packed: [vectors][pairs][16 columns][2] in bfloat16, so that a vector of it meets one pair of a
// row; [vectors][numbers][16 columns] in float32.
#pragma once
#include "bfloat.h"

namespace dl {

constexpr int kTileRows = 8, kTileVectors = 3;

// Numbers of a row that one step of the product takes.
constexpr int step_of(Bf16) { return 2; }
constexpr int step_of(float) { return 1; }

// Whether the processor multiplies pairs of bfloat16; else they are widened, which is slow.
inline bool fast_pairs() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

// Where the rows of the left factor lie: row i of part t at from + offset[t] + i x pitch, `steps` steps long.
template <class T>
struct Left {
  const T* from;
  int64_t pitch, steps;
  int parts;
  int64_t offset[9];
};

// out[i][j] = rows i of `left`, all parts one after another, times vector j of the right factor.
template <int N>
DL_HD void tile(const Left<float>& left, const float* right, int64_t apart, Vf out[kTileRows][kTileVectors]) {
  Vf sum[kTileRows][N] = {};
  for (int t = 0; t < left.parts; t++) {
    const float* a = left.from + left.offset[t];
    for (int64_t k = 0; k < left.steps; k++, right += kLanes)
      for (int j = 0; j < N; j++) {
        const Vf b = load(right + j * apart);
        for (int i = 0; i < kTileRows; i++) sum[i][j] += a[i * left.pitch + k] * b;
      }
  }
  for (int i = 0; i < kTileRows; i++)
    for (int j = 0; j < N; j++) out[i][j] = sum[i][j];
}

template <int N>
DL_HD void tile(const Left<Bf16>& left, const Bf16* right, int64_t apart, Vf out[kTileRows][kTileVectors]) {
  Vf sum[kTileRows][N] = {};
  for (int t = 0; t < left.parts; t++) {
    const Bf16* a = left.from + left.offset[t];
    for (int64_t k = 0; k < left.steps; k++, right += 2 * kLanes)
      for (int j = 0; j < N; j++) {
        Vi pairs;
        memcpy(&pairs, right + j * apart, sizeof pairs);
        const Vf first = from_bits(pairs << 16), second = from_bits(pairs & int32_t(0xffff0000));
        for (int i = 0; i < kTileRows; i++) {
          const Bf16* at = a + i * left.pitch + 2 * k;
          sum[i][j] += wide(at[0]) * first + wide(at[1]) * second;
        }
      }
  }
  for (int i = 0; i < kTileRows; i++)
    for (int j = 0; j < N; j++) out[i][j] = sum[i][j];
}

#if defined(__AVX512F__)
template <int N>
__attribute__((target("avx512bf16,avx512vl,avx512bw,avx512dq"), noinline)) void tile_pairs(
    const Left<Bf16>& left, const Bf16* right, int64_t apart, Vf out[kTileRows][kTileVectors]) {
  __m512 sum[kTileRows][N];
  for (int i = 0; i < kTileRows; i++)
    for (int j = 0; j < N; j++) sum[i][j] = _mm512_setzero_ps();
  for (int t = 0; t < left.parts; t++) {
    const Bf16* a = left.from + left.offset[t];
    for (int64_t k = 0; k < left.steps; k++, right += 2 * kLanes) {
      __m512bh b[N];
      for (int j = 0; j < N; j++) b[j] = (__m512bh)_mm512_loadu_si512(right + j * apart);
#pragma GCC unroll 8
      for (int i = 0; i < kTileRows; i++) {
        int32_t pair;
        memcpy(&pair, a + i * left.pitch + 2 * k, sizeof pair);
        for (int j = 0; j < N; j++) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], b[j], (__m512bh)_mm512_set1_epi32(pair));
      }
    }
  }
  for (int i = 0; i < kTileRows; i++)
    for (int j = 0; j < N; j++) out[i][j] = (Vf)sum[i][j];
}
#endif

// The tile of `count` vectors, 1 to 3.
template <class T>
void tile_of(int count, bool fast, const Left<T>& left, const T* right, int64_t apart,
             Vf out[kTileRows][kTileVectors]) {
#if defined(__AVX512F__)
  if constexpr (step_of(T{}) == 2)
    if (fast) {
      if (count == 3) return tile_pairs<3>(left, right, apart, out);
      if (count == 2) return tile_pairs<2>(left, right, apart, out);
      return tile_pairs<1>(left, right, apart, out);
    }
#endif
  if (count == 3) return tile<3>(left, right, apart, out);
  if (count == 2) return tile<2>(left, right, apart, out);
  return tile<1>(left, right, apart, out);
}

// How many of `left` vectors the next tile takes: threes, and no lone one behind a three.
inline int next_tile(int left) { return left == 4 ? 2 : left < kTileVectors ? left : kTileVectors; }

}  // namespace dl
