// SPDX-License-Identifier: Apache-2.0
// hashgrid_cuda.cu - CUDA kernels of the hash encoding; the same arithmetic as hashgrid_cpu.cpp.
//
// encode and table_gradient: one thread per sample (x) and as many levels as give 8 features, 32 bytes of the row of a
// sample (y), so that a block's reads stay in a few levels and no sector is written in parts. A row of the table is read
// and added to as one vector. position_gradient: one thread per sample sums over the levels, without atomics.
// table_gradient adds with atomics: its sums depend on the order in which threads arrive, in the last bits.
//
// `table`, `grad` and `out` begin at a multiple of 16 bytes.
#include "hashgrid.h"

using namespace dl;

namespace {

struct Cell {
  unsigned row[8];  // corner c has bits (x, y, z) = 1, 2, 4
  float side[3][2];
  float slope[3], curve[3];  // d side[.][1] / d position, and once more
};

__device__ __forceinline__ Cell locate(const GridLevel& level, int smooth, const float* position) {
  Cell cell;
  unsigned vertex[3];
  for (int a = 0; a < 3; a++) {
    const float x = position[a];
    float f;
    vertex[a] = static_cast<unsigned>(split_cell<true>(clamp_unit(x), level, &f));
    cell.side[a][1] = ease(f, smooth);
    cell.side[a][0] = 1.f - cell.side[a][1];
    cell.slope[a] = ease_slope(f, smooth) * (level.scale * inside_unit(x));
    cell.curve[a] = ease_curve(f, smooth) * (level.scale * level.scale * inside_unit(x));
  }
#pragma unroll
  for (int c = 0; c < 8; c++) {
    cell.row[c] = vertex_row(level, vertex[0] + (c & 1), (vertex[1] + (c >> 1 & 1)) * level.step_y,
                             (vertex[2] + (c >> 2)) * level.step_z);
  }
  return cell;
}

// Weight of corner c, or its derivative along u.
__device__ __forceinline__ float weight(const Cell& cell, int c, const float* u) {
  const float x = cell.side[0][c & 1], y = cell.side[1][c >> 1 & 1], z = cell.side[2][c >> 2];
  if (!u) return x * (y * z);
  const float dx = (c & 1 ? u[0] : -u[0]) * cell.slope[0], dy = (c & 2 ? u[1] : -u[1]) * cell.slope[1];
  const float dz = (c & 4 ? u[2] : -u[2]) * cell.slope[2];
  return dx * (y * z) + x * (dy * z + y * dz);
}

// F numbers at once, the address being a multiple of their size (of 16 bytes for 8).
template <int F>
__device__ __forceinline__ void load_row(const float* from, float* to) {
  if constexpr (F == 1) {
    to[0] = from[0];
  } else if constexpr (F == 2) {
    const float2 v = *reinterpret_cast<const float2*>(from);
    to[0] = v.x, to[1] = v.y;
  } else {
    for (int i = 0; i < F / 4; i++) {
      const float4 v = reinterpret_cast<const float4*>(from)[i];
      to[4 * i] = v.x, to[4 * i + 1] = v.y, to[4 * i + 2] = v.z, to[4 * i + 3] = v.w;
    }
  }
}

// Adds F numbers to a row; one request of the lane where the device has vectors for it.
template <int F>
__device__ __forceinline__ void add_row(float* to, const float* g, float w) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (F == 2) {
    asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(w * g[0]), "f"(w * g[1]) : "memory");
  } else if constexpr (F >= 4) {
    for (int i = 0; i < F; i += 4)
      asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to + i), "f"(w * g[i]), "f"(w * g[i + 1]),
                   "f"(w * g[i + 2]), "f"(w * g[i + 3])
                   : "memory");
  } else {
    atomicAdd(to, w * g[0]);
  }
#else
  for (int f = 0; f < F; f++) atomicAdd(to + f, w * g[f]);
#endif
}

constexpr int kPart = 8;  // features a thread works on

// The part of a sample's row that a thread works on, as whole vectors where rows allow it.
template <int F>
__device__ __forceinline__ bool whole_vectors(const GridParams& p, int first) {
  return p.width() % 4 == 0 && first * F + kPart <= p.width();
}

template <int F>
__device__ __forceinline__ void encode(const GridParams& p, int64_t n, int part) {
  const int first = part * (kPart / F);
  float sum[kPart] = {};
#pragma unroll
  for (int i = 0; i < kPart / F; i++) {
    if (first + i >= p.active) continue;
    const GridLevel level = p.level(first + i);
    const Cell cell = locate(level, p.smooth, p.positions + 3 * n);
    const float* rows = p.table + level.first * F;
#pragma unroll
    for (int c = 0; c < 8; c++) {
      const float w = weight(cell, c, p.direction ? p.direction + 3 * n : nullptr);
      float row[F];
      load_row<F>(rows + static_cast<int64_t>(cell.row[c]) * F, row);
      for (int f = 0; f < F; f++) sum[i * F + f] += w * row[f];
    }
  }
  float* out = p.out + n * p.width() + first * F;
  if (whole_vectors<F>(p, first)) {
    reinterpret_cast<float4*>(out)[0] = make_float4(sum[0], sum[1], sum[2], sum[3]);
    reinterpret_cast<float4*>(out)[1] = make_float4(sum[4], sum[5], sum[6], sum[7]);
    return;
  }
#pragma unroll
  for (int i = 0; i < kPart; i++)
    if (first * F + i < p.width()) out[i] = sum[i];
}

template <int F>
__device__ __forceinline__ void table_gradient(const GridParams& p, int64_t n, int part) {
  const int first = part * (kPart / F);
  const float* grad = p.grad + n * p.width() + first * F;
  float g[kPart];
  if (whole_vectors<F>(p, first)) {
    load_row<kPart>(grad, g);
  } else {
#pragma unroll
    for (int i = 0; i < kPart; i++) g[i] = first * F + i < p.width() ? grad[i] : 0.f;
  }
#pragma unroll
  for (int i = 0; i < kPart / F; i++) {
    if (first + i >= p.active) continue;
    const GridLevel level = p.level(first + i);
    const Cell cell = locate(level, p.smooth, p.positions + 3 * n);
    float* rows = p.out + level.first * F;
#pragma unroll
    for (int c = 0; c < 8; c++) {
      const float w = weight(cell, c, p.direction ? p.direction + 3 * n : nullptr);
      add_row<F>(rows + static_cast<int64_t>(cell.row[c]) * F, g + i * F, w);
    }
  }
}

template <int F>
__device__ __forceinline__ void position_gradient(const GridParams& p, int64_t n) {
  float sum[3] = {0.f, 0.f, 0.f};
  for (int l = 0; l < p.active; l++) {
    const GridLevel level = p.level(l);
    const Cell cell = locate(level, p.smooth, p.positions + 3 * n);
    const float* rows = p.table + level.first * F;
    float given[F];
    load_row<F>(p.grad + n * p.width() + l * F, given);
    float g[3] = {0.f, 0.f, 0.f}, mixed[3] = {0.f, 0.f, 0.f}, pure[3] = {0.f, 0.f, 0.f};
#pragma unroll
    for (int c = 0; c < 8; c++) {
      float row[F];
      load_row<F>(rows + static_cast<int64_t>(cell.row[c]) * F, row);
      float d = 0.f;
      for (int f = 0; f < F; f++) d += row[f] * given[f];
      const float x = cell.side[0][c & 1], y = cell.side[1][c >> 1 & 1], z = cell.side[2][c >> 2];
      const float ux = c & 1 ? 1.f : -1.f, uy = c & 2 ? 1.f : -1.f, uz = c & 4 ? 1.f : -1.f;
      g[0] += ux * y * z * d, g[1] += uy * x * z * d, g[2] += uz * x * y * d;
      mixed[0] += uy * uz * x * d, mixed[1] += ux * uz * y * d, mixed[2] += ux * uy * z * d;
    }
    if (!p.direction) {
      for (int a = 0; a < 3; a++) sum[a] += cell.slope[a] * g[a];
      continue;
    }
    const float* u = p.direction + 3 * n;
    for (int a = 0; a < 3; a++) pure[a] = cell.curve[a] * g[a];
    mixed[0] *= cell.slope[1] * cell.slope[2], mixed[1] *= cell.slope[0] * cell.slope[2];
    mixed[2] *= cell.slope[0] * cell.slope[1];
    sum[0] += u[0] * pure[0] + u[1] * mixed[2] + u[2] * mixed[1];
    sum[1] += u[0] * mixed[2] + u[1] * pure[1] + u[2] * mixed[0];
    sum[2] += u[0] * mixed[1] + u[1] * mixed[0] + u[2] * pure[2];
  }
  for (int a = 0; a < 3; a++) p.out[3 * n + a] = sum[a];
}

__device__ __forceinline__ int64_t sample() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

}  // namespace

#define BY_FEATURES(CALL)                              \
  switch (p.features) {                                \
    case 1: CALL(1); break;                            \
    case 2: CALL(2); break;                            \
    case 4: CALL(4); break;                            \
    default: CALL(8);                                  \
  }

extern "C" __global__ void __launch_bounds__(128) dl_hashgrid_encode(const GridParams p) {
  const int64_t n = sample();
  if (n >= p.count) return;
#define CALL(F) encode<F>(p, n, blockIdx.y)
  BY_FEATURES(CALL)
#undef CALL
}

extern "C" __global__ void __launch_bounds__(128) dl_hashgrid_table_gradient(const GridParams p) {
  const int64_t n = sample();
  if (n >= p.count) return;
#define CALL(F) table_gradient<F>(p, n, blockIdx.y)
  BY_FEATURES(CALL)
#undef CALL
}

extern "C" __global__ void __launch_bounds__(128) dl_hashgrid_position_gradient(const GridParams p) {
  const int64_t n = sample();
  if (n >= p.count) return;
#define CALL(F) position_gradient<F>(p, n)
  BY_FEATURES(CALL)
#undef CALL
}
