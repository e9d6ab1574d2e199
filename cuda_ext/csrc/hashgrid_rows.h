// SPDX-License-Identifier: Apache-2.0
// hashgrid_rows.h - what hashgrid_cpu.cpp stands on: 16-lane overloads, rows of F features as vectors, scratch memory.
#pragma once
#include "common.h"

#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dl {

DL_HD Vf whole(Vf x) { return to_float(to_int(x)); }  // of x >= 0

// x * scale - origin with one rounding, see hashgrid.h.
DL_HD Vf exact_fraction(Vf x, float scale, Vf origin) { return fused(x, scale, origin); }

}  // namespace dl

namespace {

using namespace dl;

constexpr uintptr_t kHugePage = uintptr_t{1} << 21;

// First touch of a large fresh buffer costs a page fault per 4 KB, more than the work of this op; ask for 2 MB pages.
inline void advise_huge_pages(void* begin, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(begin) + bytes) / kHugePage * kHugePage;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)begin, (void)bytes;
#endif
}

// Floats that nobody has written yet; `data` is null when there is no memory. Kept below 32 MB each: from there on
// malloc hands out fresh pages in every call, and the kernel zeroes them.
struct Scratch {
  float* data = nullptr;

  Scratch() = default;
  explicit Scratch(size_t count) {
    const size_t bytes = (count * sizeof(float) + 64) / 64 * 64;
    data = static_cast<float*>(std::aligned_alloc(64, bytes));
    if (data != nullptr) advise_huge_pages(data, bytes);
  }
  Scratch(Scratch&& other) noexcept : data(other.data) { other.data = nullptr; }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data); }
};

template <int F>
struct Row {  // F features; every operation is on all of them
  typedef float Vec __attribute__((vector_size(F * 4), aligned(4), may_alias));
  Vec v;

  static Row load(const float* from) { return {*reinterpret_cast<const Vec*>(from)}; }
  void store(float* to) const { *reinterpret_cast<Vec*>(to) = v; }
  static Row zero() { return {Vec{}}; }
};

// The rows of two neighbours along x. At F = 2 both fit one 16-byte register, which halves the instructions.
template <int F>
struct Pair {
  typedef typename Row<F>::Vec Vec;
  Vec near, far;

  static Pair zero() { return {Vec{}, Vec{}}; }
  static Pair load(const float* a, const float* b) { return {Row<F>::load(a).v, Row<F>::load(b).v}; }
  static Pair load_beside(const float* a) { return load(a, a + F); }
  void store(float* to) const { Row<F>{near}.store(to), Row<F>{far}.store(to + F); }
  Pair times(float w) const { return {near * w, far * w}; }
  void add(const Pair& p, float w) { near += p.near * w, far += p.far * w; }
  void add_to(float* a, float* b) const {
    Row<F>{Row<F>::load(a).v + near}.store(a);
    Row<F>{Row<F>::load(b).v + far}.store(b);
  }
  void add_beside(float* a) const { add_to(a, a + F); }
};

template <>
struct Pair<2> {
  typedef float Vec __attribute__((vector_size(16)));
  typedef float Near __attribute__((vector_size(16), aligned(4), may_alias));
  typedef double Halves __attribute__((vector_size(16)));
  typedef double Half __attribute__((aligned(4), may_alias));
  Vec both;

  static Pair zero() { return {Vec{}}; }
  static Pair load(const float* a, const float* b) {
    const Halves halves = {*reinterpret_cast<const Half*>(a), *reinterpret_cast<const Half*>(b)};
    return {reinterpret_cast<Vec>(halves)};
  }
  static Pair load_beside(const float* a) { return {*reinterpret_cast<const Near*>(a)}; }
  void store(float* to) const { *reinterpret_cast<Near*>(to) = both; }
  Pair times(float w) const { return {both * w}; }
  void add(const Pair& p, float w) { both += p.both * w; }
  void add_to(float* a, float* b) const {  // the two rows are never the same one
    const Halves halves = reinterpret_cast<Halves>(load(a, b).both + both);
    *reinterpret_cast<Half*>(a) = halves[0];
    *reinterpret_cast<Half*>(b) = halves[1];
  }
  void add_beside(float* a) const { Pair{load_beside(a).both + both}.store(a); }
};

// The pairs of 16 samples, and what is done to all of them at once. Features of samples lie side by side outside.
template <int F>
struct Pairs {
  Pair<F> at[kLanes];

  // into = near x wa + far x wb, or that added.
  template <bool kAdd>
  void mix(const float* wa, const float* wb, float* into) const {
    for (int k = 0; k < kLanes; ++k) {
      const Row<F> old = kAdd ? Row<F>::load(into + k * F) : Row<F>::zero();
      Row<F>{old.v + (at[k].near * wa[k] + at[k].far * wb[k])}.store(into + k * F);
    }
  }
  // near = grad x wa, far = grad x wb.
  void outer(const float* grad, const float* wa, const float* wb) {
    for (int k = 0; k < kLanes; ++k) {
      const Row<F> g = Row<F>::load(grad + k * F);
      at[k] = {g.v * wa[k], g.v * wb[k]};
    }
  }
  // Products of the rows with those of `grad`.
  void dot(const float* grad, float* near, float* far) const {
    for (int k = 0; k < kLanes; ++k) {
      near[k] = far[k] = 0.f;
      for (int f = 0; f < F; ++f) near[k] += at[k].near[f] * grad[k * F + f], far[k] += at[k].far[f] * grad[k * F + f];
    }
  }
};

// At F = 2 half of the samples are two vectors of four pairs each: the lower halves of both, interleaved, are the near
// rows of samples 0 4 1 5 2 6 3 7, the upper ones the far rows.
template <>
struct Pairs<2> {
  Pair<2> at[kLanes];

#if defined(__AVX512F__)
  static __m512 low(__m512 a, __m512 b) { return (__m512)_mm512_unpacklo_pd((__m512d)a, (__m512d)b); }
  static __m512 high(__m512 a, __m512 b) { return (__m512)_mm512_unpackhi_pd((__m512d)a, (__m512d)b); }
  // Pairs k..k + 3, one by one: a load of all four would wait for their stores to leave the core.
  __m512 four(int k) const {
    const __m256 a = _mm256_insertf128_ps(_mm256_castps128_ps256((__m128)at[k].both), (__m128)at[k + 1].both, 1);
    const __m256 b = _mm256_insertf128_ps(_mm256_castps128_ps256((__m128)at[k + 2].both), (__m128)at[k + 3].both, 1);
    return _mm512_insertf32x8(_mm512_castps256_ps512(a), b, 1);
  }
  static __m512 twice(const float* w, int half) {  // each weight, in that order
    const Vi lane = Vi{0, 0, 4, 4, 1, 1, 5, 5, 2, 2, 6, 6, 3, 3, 7, 7} + 8 * half;
    return _mm512_permutexvar_ps((__m512i)lane, (__m512)load(w));
  }
  static __m512 shuffled(const float* grad) {
    return (__m512)_mm512_permutexvar_pd(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), (__m512d)load(grad));
  }

  template <bool kAdd>
  void mix(const float* wa, const float* wb, float* into) const {
    for (int half = 0; half < 2; ++half) {
      const __m512 a = four(8 * half), b = four(8 * half + 4);
      const __m512 near = _mm512_mul_ps(low(a, b), twice(wa, half));
      const __m512 mixed = _mm512_fmadd_ps(high(a, b), twice(wb, half), near);
      const Vf sum = (Vf)_mm512_permutexvar_pd(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), (__m512d)mixed);
      float* to = into + 16 * half;
      store(to, kAdd ? load(to) + sum : sum);
    }
  }
  void outer(const float* grad, const float* wa, const float* wb) {
    for (int half = 0; half < 2; ++half) {
      const __m512 g = shuffled(grad + 16 * half);
      const __m512 near = _mm512_mul_ps(g, twice(wa, half)), far = _mm512_mul_ps(g, twice(wb, half));
      const __m512 a = low(near, far), b = high(near, far);
      memcpy(at + 8 * half, &a, sizeof a), memcpy(at + 8 * half + 4, &b, sizeof b);
    }
  }
  void dot(const float* grad, float* near, float* far) const {
    __m512 product[2][2];
    for (int half = 0; half < 2; ++half) {
      const __m512 a = four(8 * half), b = four(8 * half + 4), g = shuffled(grad + 16 * half);
      product[0][half] = _mm512_mul_ps(low(a, b), g), product[1][half] = _mm512_mul_ps(high(a, b), g);
    }
    const Vi first = {0, 4, 8, 12, 2, 6, 10, 14, 16, 20, 24, 28, 18, 22, 26, 30};
    for (int side = 0; side < 2; ++side) {
      const __m512 one = product[side][0], other = product[side][1];
      store(side ? far : near, (Vf)_mm512_add_ps(_mm512_permutex2var_ps(one, (__m512i)first, other),
                                                 _mm512_permutex2var_ps(one, (__m512i)(first + 1), other)));
    }
  }
#else
  template <bool kAdd>
  void mix(const float* wa, const float* wb, float* into) const {
    for (int k = 0; k < kLanes; ++k) {
      const Pair<2>::Vec m = at[k].both * Pair<2>::Vec{wa[k], wa[k], wb[k], wb[k]};
      for (int f = 0; f < 2; ++f) into[2 * k + f] = kAdd ? into[2 * k + f] + (m[f] + m[2 + f]) : m[f] + m[2 + f];
    }
  }
  void outer(const float* grad, const float* wa, const float* wb) {
    for (int k = 0; k < kLanes; ++k) {
      const float* g = grad + 2 * k;
      at[k].both = Pair<2>::Vec{g[0], g[1], g[0], g[1]} * Pair<2>::Vec{wa[k], wa[k], wb[k], wb[k]};
    }
  }
  void dot(const float* grad, float* near, float* far) const {
    for (int k = 0; k < kLanes; ++k) {
      const Pair<2>::Vec b = at[k].both;
      near[k] = b[0] * grad[2 * k] + b[1] * grad[2 * k + 1], far[k] = b[2] * grad[2 * k] + b[3] * grad[2 * k + 1];
    }
  }
#endif
};

}  // namespace
