// SPDX-License-Identifier: Apache-2.0
// raster_slabs.h - sums over the pixels of a picture into a small array (gradients of vertices, texels), on threads.
//
// Each view's rows are cut into slabs, each with its own copy of the array, and the copies are added up in order. The
// cut depends on the thread count alone, so the same thread count gives the same bits.
#pragma once
#include <memory>
#include <new>

#include "common.h"

namespace dl {

constexpr int64_t kSlabFloats = int64_t(1) << 27;  // at most 512 MiB of copies: then fewer threads work

// How many slabs each of `views` arrays of `size` floats is summed in.
inline int64_t slabs_per_view(int64_t views, int64_t rows, int64_t size, int threads) {
  int64_t slabs = views ? (threads + views - 1) / views : 1;
  while (slabs > 1 && (slabs > rows || views * (slabs - 1) * size > kSlabFloats)) --slabs;
  return slabs;
}

// out [views, size] = sums; body(view, first_row, last_row, target) adds to target. False when memory ran out.
template <class Body>
bool sum_slabs(float* out, int64_t views, int64_t rows, int64_t size, int threads, const Body& body) {
  const int64_t slabs = slabs_per_view(views, rows, size, threads), copies = slabs - 1;
  std::unique_ptr<float[]> spare(copies > 0 ? new (std::nothrow) float[views * copies * size] : nullptr);
  if (copies > 0 && !spare) return false;
  constexpr int64_t kBlock = 4096;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t item = 0; item < views * slabs; ++item) {
      const int64_t view = item / slabs, k = item % slabs;
      float* target = k == 0 ? out + view * size : spare.get() + (view * copies + k - 1) * size;
      memset(target, 0, size_t(size) * sizeof(float));
      body(view, rows * k / slabs, rows * (k + 1) / slabs, target);
    }
    if (copies > 0) {
#pragma omp for schedule(static)
      for (int64_t block = 0; block < views * ((size + kBlock - 1) / kBlock); ++block) {
        const int64_t per_view = (size + kBlock - 1) / kBlock, view = block / per_view;
        const int64_t first = block % per_view * kBlock, last = first + kBlock < size ? first + kBlock : size;
        for (int64_t k = 0; k < copies; ++k) {
          const float* copy = spare.get() + (view * copies + k) * size;
          for (int64_t i = first; i < last; ++i) out[view * size + i] += copy[i];
        }
      }
    }
  }
  return true;
}

}  // namespace dl
