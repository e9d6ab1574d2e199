// SPDX-License-Identifier: Apache-2.0
// adam_cpu.cpp - one parallel region over rows. A row is updated from itself alone: any thread count gives the same bits.
//
// The cost is memory traffic, and mispredicted branches where visible rows lie scattered. The mask is read 64 rows at a
// time: a word of ones is one range, a word of zeros costs nothing, in a mixed word wide rows are visited one by one
// (those of the next word are being fetched meanwhile) and narrow rows, several to a cache line, as 16 rows under a mask.
#include "adam.h"

namespace {

using namespace dl;

constexpr int kWord = 64;          // rows
constexpr int64_t kChunk = 128;    // words a thread takes at a time
constexpr int64_t kLine = 16;      // floats in a cache line
constexpr int64_t kAhead = 7 * kLine;  // asked for before their turn in a long range; 10 lines gain nothing

struct Buffers {
  float *x, *m, *v;
  const float* g;
};

// Those of 16 numbers from `i` on whose bit is set, with the operations the full vectors take.
void update_masked(const Buffers& b, int64_t i, uint32_t bits, const AdamParams& p, const AdamScale& s) {
#if defined(__AVX512F__)
  const __mmask16 on = __mmask16(bits);
  Vf x = (Vf)_mm512_maskz_loadu_ps(on, b.x + i), m = (Vf)_mm512_maskz_loadu_ps(on, b.m + i);
  Vf v = (Vf)_mm512_maskz_loadu_ps(on, b.v + i);
  adam_update(x, (Vf)_mm512_maskz_loadu_ps(on, b.g + i), m, v, p, s);
  _mm512_mask_storeu_ps(b.x + i, on, (__m512)x);
  _mm512_mask_storeu_ps(b.m + i, on, (__m512)m);
  _mm512_mask_storeu_ps(b.v + i, on, (__m512)v);
#else
  for (; bits; bits &= bits - 1) {
    const int64_t k = i + __builtin_ctz(bits);
    adam_update(b.x[k], b.g[k], b.m[k], b.v[k], p, s);
  }
#endif
}

// The same, where all 16 numbers are this thread's: the others are written back as they were, which costs less than a
// store under a mask.
void update_chosen(const Buffers& b, int64_t i, uint32_t bits, const AdamParams& p, const AdamScale& s) {
#if defined(__AVX512F__)
  const __mmask16 on = __mmask16(bits);
  const Vf old_x = load(b.x + i), old_m = load(b.m + i), old_v = load(b.v + i);
  Vf x = old_x, m = old_m, v = old_v;
  adam_update(x, load(b.g + i), m, v, p, s);
  store(b.x + i, (Vf)_mm512_mask_mov_ps((__m512)old_x, on, (__m512)x));
  store(b.m + i, (Vf)_mm512_mask_mov_ps((__m512)old_m, on, (__m512)m));
  store(b.v + i, (Vf)_mm512_mask_mov_ps((__m512)old_v, on, (__m512)v));
#else
  update_masked(b, i, bits, p, s);
#endif
}

void prefetch_range(const Buffers& b, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += kLine) {
    __builtin_prefetch(b.x + i, 1);
    __builtin_prefetch(b.m + i, 1);
    __builtin_prefetch(b.v + i, 1);
    __builtin_prefetch(b.g + i);
  }
}

void update_range(const Buffers& b, int64_t begin, int64_t end, const AdamParams& p, const AdamScale& s) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    if (i + kAhead < end) prefetch_range(b, i + kAhead, i + kAhead + 1);
    Vf x = load(b.x + i), m = load(b.m + i), v = load(b.v + i);
    adam_update(x, load(b.g + i), m, v, p, s);
    store(b.x + i, x), store(b.m + i, m), store(b.v + i, v);
  }
  if (i < end) update_masked(b, i, (1u << (end - i)) - 1u, p, s);
}

// Bit i: row + i is visible. `count` rows up to 64.
uint64_t visible_word(const AdamParams& p, int64_t row, int count) {
  uint64_t word = 0;
  if (count == kWord) {
    for (int i = 0; i < kWord; i += 8) {  // gathers the lowest bits of 8 bytes that are 0 or 1
      uint64_t bytes;
      memcpy(&bytes, p.visible + row + i, sizeof bytes);
      word |= ((bytes * 0x0102040810204080ull) >> 56) << i;
    }
    return word;
  }
  for (int i = 0; i < count; i++) word |= uint64_t(p.visible[row + i] != 0) << i;
  return word;
}

void prefetch_rows(const Buffers& b, uint64_t word, int64_t row, int64_t columns) {
  const int64_t first = row * columns, last = first + kWord * columns;
  if (word == ~uint64_t(0)) return prefetch_range(b, first, first + kAhead < last ? first + kAhead : last);
  if (columns <= 4) return prefetch_range(b, first, last);
  for (; word; word &= word - 1) {
    const int64_t begin = (row + __builtin_ctzll(word)) * columns;
    prefetch_range(b, begin, begin + columns);
  }
}

// 16 rows of `columns` <= 4 numbers: repeats each bit `columns` times.
uint64_t repeat_bits(uint32_t bits, int columns) {
  uint64_t out = 0;
#if defined(__BMI2__)
  constexpr uint64_t kPlaces[5] = {0, 0xffff, 0x55555555, 0x249249249249, 0x1111111111111111};  // every column-th bit
  out = _pdep_u64(bits, kPlaces[columns]);
#else
  for (int i = 0; i < 16; i++) out |= uint64_t(bits >> i & 1) << (i * columns);
#endif
  return out * ((uint64_t(1) << columns) - 1);
}

void update_word(const Buffers& b, uint64_t word, int64_t row, int count, const AdamParams& p, const AdamScale& s) {
  const int64_t columns = p.columns;
  if (word == ~uint64_t(0)) return update_range(b, row * columns, (row + kWord) * columns, p, s);
  if (columns > 4 || count < kWord) {
    for (; word; word &= word - 1) {
      const int64_t begin = (row + __builtin_ctzll(word)) * columns;
      update_range(b, begin, begin + columns, p, s);
    }
    return;
  }
  for (int first = 0; first < kWord; first += kLanes) {
    uint64_t bits = repeat_bits(uint32_t(word >> first) & 0xffffu, int(columns));
    for (int64_t i = (row + first) * columns; bits; i += kLanes, bits >>= kLanes)
      if (bits & 0xffffu) update_chosen(b, i, uint32_t(bits & 0xffffu), p, s);
  }
}

}  // namespace

DL_API void dl_adam(float* x, const float* g, float* m, float* v, const dl::AdamParams* params, int threads) {
  const AdamParams p = *params;
  if (p.skip && *p.skip) return;
  const AdamScale s = adam_scale(p);
  const Buffers buffers = {x, m, v, g};
  const int64_t words = (p.rows + kWord - 1) / kWord, chunks = (words + kChunk - 1) / kChunk;
#pragma omp parallel for num_threads(threads) schedule(static) if (p.rows * p.columns > 32768)
  for (int64_t chunk = 0; chunk < chunks; chunk++) {
    const int64_t first = chunk * kChunk * kWord, full = first + kChunk * kWord, end = p.rows < full ? p.rows : full;
    if (!p.visible) {
      update_range(buffers, first * p.columns, end * p.columns, p, s);
      continue;
    }
    uint64_t word[kChunk];
    int64_t start[kChunk];
    int found = 0;
    for (int64_t row = first; row < end; row += kWord) {
      word[found] = visible_word(p, row, int(end - row < kWord ? end - row : kWord));
      start[found] = row;
      found += word[found] != 0;
    }
    for (int i = 0; i < found; i++) {
      const int from = i;  // words of ones that touch are one range
      while (word[i] == ~uint64_t(0) && i + 1 < found && word[i + 1] == word[i] && start[i + 1] == start[i] + kWord) i++;
      if (i + 1 < found) prefetch_rows(buffers, word[i + 1], start[i + 1], p.columns);
      if (i > from) {
        update_range(buffers, start[from] * p.columns, (start[i] + kWord) * p.columns, p, s);
        continue;
      }
      update_word(buffers, word[i], start[i], int(end - start[i] < kWord ? end - start[i] : kWord), p, s);
    }
  }
}
