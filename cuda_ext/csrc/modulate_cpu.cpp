// SPDX-License-Identifier: Apache-2.0
// modulate_cpu.cpp - sixteen rows at a time, so that their sums are taken together; blocks over threads. Gradients of a
// and b, which the rows of a sample share, are summed by one thread in the order of its rows, so any thread count gives
// the same bits. The prior's widths are compiled out.
#include "rows.h"

using namespace dl;

namespace {

int64_t blocks_of(const ModulateParams& p) { return (p.rows + kLanes - 1) / kLanes; }
int rows_of(const ModulateParams& p, int64_t block) {
  const int64_t left = p.rows - block * kLanes;
  return left < kLanes ? int(left) : kLanes;
}

template <int N, class T>
void forward(Shape<N> shape, const ModulateParams& p, T* out, int threads) {
  const int64_t blocks = blocks_of(p);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t task = 0; task < p.samples * blocks; ++task) {
    const int64_t sample = task / blocks, first = sample * p.rows + task % blocks * kLanes;
    const int count = rows_of(p, task % blocks);
    Told<N> told;
    told.read(p, T{}, sample, shape);
    for (int64_t group = 0; group < p.groups; ++group) {
      Block<N> block;
      block.read(static_cast<const T*>(p.x) + first * p.stride + group * p.width, p.stride, count, shape);
      if (p.normed) block.norm(count, shape);
      T* to = out + (first * p.groups + group) * p.width;
      for (int r = 0; r < count; r++, to += p.groups * p.width)
        for (int i = 0; i < shape.vectors(); i++) {
          const Vf u = told.there ? block.x[r][i] * told.a[i] + told.b[i] : block.x[r][i];
          give(to + kLanes * i, p.silu ? silu(u) : u, shape.lanes(i));
        }
    }
  }
}

// What the rows of a sample add to the gradients of a and b.
template <int N>
struct Shares {
  Vf a[Shape<N>::kRoom], b[Shape<N>::kRoom];
};

// One group of one block, at `at` of what is dense.
template <int N, class T>
void backward_block(Shape<N> shape, const ModulateParams& p, const T* x, const T* grad, T* grad_x, int count,
                    const Told<N>& told, Shares<N>& shares) {
  Block<N> block, g;
  const int64_t stride = p.groups * p.width;
  block.read(x, p.stride, count, shape);
  if (p.normed) block.norm(count, shape);
  g.read(grad, stride, count, shape);
  Vf total[kLanes] = {}, along[kLanes] = {};
  for (int r = 0; r < count; r++)
    for (int i = 0; i < shape.vectors(); i++) {
      const Vf n = block.x[r][i];
      Vf each = g.x[r][i];
      if (p.silu) each *= silu_slope(told.there ? n * told.a[i] + told.b[i] : n);
      if (told.there) {
        shares.a[i] += each * n;
        shares.b[i] += each;
        each *= told.a[i];
      }
      g.x[r][i] = each;
      total[r] += each;
      along[r] += each * n;
    }
  float mean[kLanes], slope[kLanes];
  if (p.normed) {
    store(mean, sums(total) / float(shape.width));
    store(slope, sums(along) / float(shape.width));
  }
  for (int r = 0; r < count; r++)
    for (int i = 0; i < shape.vectors(); i++) {
      Vf each = g.x[r][i];
      if (p.normed) each = (each - mean[r] - block.x[r][i] * slope[r]) * block.inverse[r];
      give(grad_x + r * stride + kLanes * i, each, shape.lanes(i));
    }
}

template <int N, class T>
void backward(Shape<N> shape, const ModulateParams& p, const T* grad, T* grad_x, T* grad_told, int threads) {
  const int64_t blocks = blocks_of(p), each = p.told ? blocks : 1;  // blocks of a task
  const int64_t tasks = p.told ? p.samples : p.samples * blocks;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t task = 0; task < tasks; ++task) {
    Told<N> told;
    Shares<N> shares;
    told.read(p, T{}, task, shape);
    for (int i = 0; i < shape.vectors(); i++) shares.a[i] = shares.b[i] = Vf{};
    for (int64_t block = task * each; block < (task + 1) * each; ++block) {
      const int64_t first = block / blocks * p.rows + block % blocks * kLanes;
      for (int64_t group = 0; group < p.groups; ++group) {
        const T* x = static_cast<const T*>(p.x) + first * p.stride + group * p.width;
        const int64_t at = (first * p.groups + group) * p.width;
        backward_block(shape, p, x, grad + at, grad_x + at, rows_of(p, block % blocks), told, shares);
      }
    }
    for (int i = 0; told.there && i < shape.vectors(); i++) {
      give(grad_told + 2 * task * p.width + kLanes * i, shares.a[i], shape.lanes(i));
      give(grad_told + (2 * task + 1) * p.width + kLanes * i, shares.b[i], shape.lanes(i));
    }
  }
}

// body(shape, T{}) for a row's shape and the numbers in memory.
template <class Body>
void with_row(const ModulateParams& p, const Body& body) {
  with_vectors<2, 3, 4, 6, 14>(p.width, [&](auto shape) { p.half ? body(shape, Bf16{}) : body(shape, float{}); });
}

}  // namespace

// out [samples, rows, groups x width], dense.
DL_API int dl_modulate(const dl::ModulateParams* params, void* out, int threads) {
  with_row(*params, [&](auto shape, auto number) {
    forward(shape, *params, static_cast<decltype(number)*>(out), threads);
  });
  return 0;
}

// grad and grad_x [samples, rows, groups x width], grad_told [samples, 2 x width], dense; grad_told may be null.
DL_API int dl_modulate_backward(const dl::ModulateParams* params, const void* grad, void* grad_x, void* grad_told,
                                int threads) {
  with_row(*params, [&](auto shape, auto number) {
    using T = decltype(number);
    backward(shape, *params, static_cast<const T*>(grad), static_cast<T*>(grad_x), static_cast<T*>(grad_told), threads);
  });
  return 0;
}
