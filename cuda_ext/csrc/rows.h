// SPDX-License-Identifier: Apache-2.0
// rows.h - sixteen rows at a time in registers and L1, read, normed and modulated; for CPU launchers.
#pragma once
#include "modulate.h"

namespace dl {

constexpr int kMostVectors = 64;  // of a row: MOST_WIDTH of modulate.py

// A row as vectors of numbers; N of them, 0 means "ask width".
template <int N>
struct Shape {
  static constexpr int kVectors = N, kRoom = N ? N : kMostVectors;
  int64_t width;
  int vectors() const { return N ? N : int((width + kLanes - 1) / kLanes); }
  int lanes(int i) const { return i + 1 < vectors() ? kLanes : int(width - int64_t(kLanes) * i); }
};

// Lane r is the sum of x[r], always in the same order.
inline Vf sums(Vf x[kLanes]) {
#if defined(__AVX512F__)
  for (int half = 1; half < kLanes; half *= 2) {
    const Vi lane = lane_index(), upper = (lane & half) != 0;
    const Vi low = upper ? lane - half + kLanes : lane, high = upper ? lane + kLanes : lane + half;
    for (int r = 0; r < kLanes; r += 2 * half) {
      const __m512 a = (__m512)x[r], b = (__m512)x[r + half];
      x[r] = (Vf)_mm512_permutex2var_ps(a, (__m512i)low, b) + (Vf)_mm512_permutex2var_ps(a, (__m512i)high, b);
    }
  }
  return x[0];
#else
  Vf found;
  for (int r = 0; r < kLanes; r++) found[r] = sum(x[r]);
  return found;
#endif
}

// Up to sixteen rows of one group: as they are, or normed.
template <int N>
struct Block {
  Vf x[kLanes][Shape<N>::kRoom];
  float inverse[kLanes];  // 1 / deviation; not set where nothing is normed

  template <class T>
  void read(const T* from, int64_t stride, int count, Shape<N> shape) {
    for (int r = 0; r < count; r++)
      for (int i = 0; i < shape.vectors(); i++) x[r][i] = take(from + r * stride + kLanes * i, shape.lanes(i));
  }

  void norm(int count, Shape<N> shape) {
    const int last = shape.vectors() - 1;
    const Vi live = lane_index() < shape.lanes(last);
    Vf part[kLanes] = {};
    for (int r = 0; r < count; r++)
      for (int i = 0; i <= last; i++) part[r] += x[r][i];
    float mean[kLanes];
    store(mean, sums(part) / float(shape.width));
    for (int r = 0; r < kLanes; r++) part[r] = Vf{};
    for (int r = 0; r < count; r++)
      for (int i = 0; i <= last; i++) {
        const Vf off = x[r][i] - mean[r];
        x[r][i] = i < last ? off : select(live, off, Vf{});
        part[r] += x[r][i] * x[r][i];
      }
    store(inverse, 1.f / sqrt_(sums(part) / float(shape.width) + kNormEps));
    for (int r = 0; r < count; r++)
      for (int i = 0; i <= last; i++) x[r][i] *= inverse[r];
  }
};

// 1 + a and b of a sample.
template <int N>
struct Told {
  bool there = false;
  Vf a[Shape<N>::kRoom], b[Shape<N>::kRoom];

  template <class T>
  void read(const ModulateParams& p, T, int64_t sample, Shape<N> shape) {
    if (!p.told) return;
    there = true;
    const T* from = static_cast<const T*>(p.told) + sample * p.told_stride;
    for (int i = 0; i < shape.vectors(); i++) {
      a[i] = take(from + kLanes * i, shape.lanes(i)) + 1.f;
      b[i] = take(from + p.width + kLanes * i, shape.lanes(i));
    }
  }
};

// body(Shape<N>) for the number of vectors that a row takes, body(Shape<0>) for any other. Where a vector is several
// registers all are others: unrolled, they would take a minute to compile.
template <int... N, class Body>
void with_vectors(int64_t width, const Body& body) {
#if defined(__AVX512F__)
  const int64_t vectors = (width + kLanes - 1) / kLanes;
  if (((vectors == N && (body(Shape<N>{width}), true)) || ...)) return;
#endif
  body(Shape<0>{width});
}

}  // namespace dl
