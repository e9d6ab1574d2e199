// SPDX-License-Identifier: Apache-2.0
// hashgrid_rows.h - what hashgrid_cpu.cpp stands on: 16-lane overloads, rows of F features as vectors, scratch memory.
#pragma once
#include "common.h"

#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dl {

typedef uint32_t Vu __attribute__((vector_size(64), may_alias));  // wraps around, as a hash must

DL_HD Vf whole(Vf x) { return to_float(__builtin_convertvector(x, Vi)); }  // of x >= 0

// x * scale - origin with one rounding, see hashgrid.h.
DL_HD Vf exact_fraction(Vf x, float scale, Vf origin) {
#if defined(__AVX512F__)
  return (Vf)_mm512_fmsub_ps((__m512)x, _mm512_set1_ps(scale), (__m512)origin);
#elif defined(__FMA__) || defined(__aarch64__)
  for (int i = 0; i < kLanes; ++i) x[i] = fmaf(x[i], scale, -origin[i]);
  return x;
#else
  for (int i = 0; i < kLanes; ++i) x[i] = static_cast<float>(static_cast<double>(x[i]) * scale - origin[i]);
  return x;
#endif
}

}  // namespace dl

namespace {

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
  static Pair outer(Row<F> g, float wa, float wb) { return {g.v * wa, g.v * wb}; }
  void add(const Pair& p, float w) { near += p.near * w, far += p.far * w; }
  Row<F> mix(float wa, float wb) const { return {near * wa + far * wb}; }
  void add_to(float* a, float* b) const {
    Row<F>{Row<F>::load(a).v + near}.store(a);
    Row<F>{Row<F>::load(b).v + far}.store(b);
  }
};

template <>
struct Pair<2> {
  typedef float Vec __attribute__((vector_size(16)));
  typedef double Halves __attribute__((vector_size(16)));
  typedef double Half __attribute__((aligned(4), may_alias));
  Vec both;

  static Pair zero() { return {Vec{}}; }
  static Pair load(const float* a, const float* b) {
    const Halves halves = {*reinterpret_cast<const Half*>(a), *reinterpret_cast<const Half*>(b)};
    return {reinterpret_cast<Vec>(halves)};
  }
  static Pair outer(Row<2> g, float wa, float wb) {
    return {Vec{g.v[0], g.v[1], g.v[0], g.v[1]} * Vec{wa, wa, wb, wb}};
  }
  void add(const Pair& p, float w) { both += p.both * w; }
  Row<2> mix(float wa, float wb) const {
    const Vec m = both * Vec{wa, wa, wb, wb};
    const Halves h = reinterpret_cast<Halves>(m);
    const Halves far = {h[1], h[1]};
    const Halves sum = reinterpret_cast<Halves>(m + reinterpret_cast<Vec>(far));
    Row<2> row;
    memcpy(&row, &sum, sizeof row);
    return row;
  }
  void add_to(float* a, float* b) const {  // the two rows are never the same one
    const Halves halves = reinterpret_cast<Halves>(load(a, b).both + both);
    *reinterpret_cast<Half*>(a) = halves[0];
    *reinterpret_cast<Half*>(b) = halves[1];
  }
};

template <int F>
inline float dot(Row<F> a, Row<F> b) {
  float sum = 0.f;
  for (int f = 0; f < F; ++f) sum += a.v[f] * b.v[f];
  return sum;
}

}  // namespace
