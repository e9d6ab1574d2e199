// SPDX-License-Identifier: Apache-2.0
// hashgrid_cpu.cpp - CPU launchers of the hash encoding: encode, its two gradients, and what their gradients need.
//
// Plan: levels outermost, so that one level's rows (4 MB at 2^19 x 2) stay in cache while many samples read them.
// Samples go in blocks of 16 lanes: rows and weights come from loops over lanes that the compiler vectorises; the rows
// are then fetched one sample at a time, two neighbours along x side by side, which beats gather instructions.
// Gathering launchers split the samples over threads. The scattering one gives whole levels to threads and takes the
// samples in order, so no two threads write the same row and the sums have the same bits for any number of threads; it
// keeps as many threads busy as there are levels.
#include <algorithm>
#include <type_traits>
#include <vector>
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "hashgrid_rows.h"  // before hashgrid.h, whose templates use its vector overloads
#include "hashgrid.h"

namespace {

using namespace dl;

constexpr int64_t kChunk = 1 << 17;  // samples that pass through all levels together; bounds the scratch memory

// A block of 16 samples in one level. Corner 2 q + a lies on side a of x and in column q = side of y + 2 * side of z.
struct Block {
  uint32_t row[8][kLanes];
  float side[3][2][kLanes];                        // weights along each axis; of y and z only with kCurves
  float column[4][kLanes];                         // weights of the columns: y times z
  float slope[3][kLanes], curve[3][kLanes];        // d side[.][1] / d position, and once more
  float column_y[4][kLanes], column_z[4][kLanes];  // d column / d position
};

enum Order { kValues, kSlopes, kCurves };  // how many derivatives of the weights a launcher needs

template <Order order, bool kShifted>
__attribute__((noinline)) void locate(const GridLevel& whose, int smooth, const float* const position[3], int64_t at,
                                      Block* b) {
  const GridLevel level = whose;  // its numbers stay in registers while the block's are stored
  Vu vertex[3][2];
  Vf side[3][2], slope[3];
  for (int a = 0; a < 3; ++a) {
    const Vf x = load(position[a] + at);
    Vf f;
    vertex[a][0] = __builtin_convertvector(split_cell<kShifted>(clamp_unit(x), level, &f), Vu);
    vertex[a][1] = vertex[a][0] + 1u;
    side[a][1] = ease(f, smooth);
    side[a][0] = 1.f - side[a][1];
    if (order >= kSlopes) store(b->slope[a], slope[a] = ease_slope(f, smooth) * (level.scale * inside_unit(x)));
    if (order >= kCurves) store(b->curve[a], ease_curve(f, smooth) * (level.scale * level.scale * inside_unit(x)));
  }
  for (int c = 0; c < 2; ++c) {
    vertex[1][c] *= level.step_y, vertex[2][c] *= level.step_z;
    store(b->side[0][c], side[0][c]);
    if (order >= kCurves) store(b->side[1][c], side[1][c]), store(b->side[2][c], side[2][c]);
  }
  for (int q = 0; q < 4; ++q) {
    const int y = q & 1, z = q >> 1;
    for (int c = 0; c < 2; ++c) {
      Vu row = level.hashed ? (vertex[0][c] ^ vertex[1][y] ^ vertex[2][z]) & level.mask
                            : vertex[0][c] + vertex[1][y] + vertex[2][z];
      if (kShifted && !level.hashed) row -= (Vu)(row >= level.rows) & level.rows;
      memcpy(b->row[2 * q + c], &row, sizeof row);
    }
    store(b->column[q], side[2][z] * side[1][y]);
    if (order < kSlopes) continue;
    store(b->column_y[q], (y ? slope[1] : -slope[1]) * side[2][z]);
    store(b->column_z[q], (z ? slope[2] : -slope[2]) * side[1][y]);
  }
}

// Calls work(block, first) for every 16 of `count` samples, each block one step after its rows were asked for: they are
// random accesses to a level that may fill the second-level cache several times.
template <Order order, class Work>
inline void over_blocks(const GridLevel& level, int smooth, const float* const position[3], int64_t count,
                        const float* rows, int features, Work work) {
  Block blocks[2];
  const bool large = static_cast<int64_t>(level.mask) * features > 1 << 16;  // numbers: half of a typical cache
  const auto place = level.shift == 0.f ? locate<order, false> : locate<order, true>;
  place(level, smooth, position, 0, &blocks[0]);
  for (int64_t i = 0; i < count; i += kLanes) {
    if (i + kLanes < count) {
      Block& next = blocks[(i / kLanes + 1) % 2];
      place(level, smooth, position, i + kLanes, &next);
      for (int c = 0; c < 8 && large; ++c) {
        for (int k = 0; k < kLanes; ++k) __builtin_prefetch(rows + size_t{next.row[c][k]} * features, 0, 2);
      }
    }
    work(blocks[i / kLanes % 2], i);
  }
}

// Weights of the derivative along `direction` [3][16]: x_turn multiplies (far - near) along x, column_turn the columns.
inline void turn(const Block& b, const float* const direction[3], int64_t at, float x_turn[kLanes],
                 float column_turn[4][kLanes]) {
  const Vf u = load(direction[0] + at), v = load(direction[1] + at), w = load(direction[2] + at);
  store(x_turn, u * load(b.slope[0]));
  for (int q = 0; q < 4; ++q) store(column_turn[q], v * load(b.column_y[q]) + w * load(b.column_z[q]));
}

inline int thread_index() {
#if defined(_OPENMP)
  return omp_get_thread_num();
#else
  return 0;
#endif
}

template <int F>
inline Pair<F> load_pair(const float* rows, const Block& b, int q, int k) {
  return Pair<F>::load(rows + size_t{b.row[2 * q][k]} * F, rows + size_t{b.row[2 * q + 1][k]} * F);
}

// Up to `capacity` samples of a thread, turned from rows into one array per axis and per level.
struct Chunk {
  static constexpr int64_t kGap = 2 * kLanes;  // keeps the arrays out of each other's cache sets

  float* memory;
  int64_t stride;

  static int64_t stride_for(int64_t capacity) { return (capacity + kLanes - 1) / kLanes * kLanes + kGap; }

  float* array(int64_t index) const { return memory + index * stride; }

  void point(int64_t first_array, const float* axes[3]) const {
    for (int a = 0; a < 3; ++a) axes[a] = array(first_array + a);
  }

  void load_positions(const float* from, int64_t count, int64_t first_array) const {
    float *x = array(first_array), *y = array(first_array + 1), *z = array(first_array + 2);
    for (int64_t i = 0; i < count; ++i) x[i] = from[3 * i], y[i] = from[3 * i + 1], z[i] = from[3 * i + 2];
    for (int64_t i = count; i < stride - kGap && i < count + kLanes; ++i) x[i] = y[i] = z[i] = 0.f;
  }
};

// Levels first..last-1 of the cotangents of samples begin..end-1, to one array per level. They are turned in a small
// buffer and leave it a cache line at a time: single numbers stored to sixteen far places miss the cache every time.
template <int F>
void load_features(const GridParams& p, const float* from, int first, int last, int64_t begin, int64_t end,
                   const Chunk& to) {
  float turned[kMaxLevels][kLanes * F];
  for (int64_t i = begin; i < end; i += kLanes) {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, end - i));
    for (int k = 0; k < n; ++k) {
      for (int l = first; l < last; ++l) Row<F>::load(from + (i + k) * p.width() + l * F).store(turned[l] + k * F);
    }
    for (int l = first; l < last; ++l) memcpy(to.array((l - first) * F) + i * F, turned[l], n * F * sizeof(float));
  }
}

// Calls work(chunk, begin, count) for consecutive ranges of samples, one scratch chunk of `arrays` floats per sample
// for each thread. Returns 1 when there is no memory.
template <class Work>
int over_chunks(int64_t n, int64_t arrays, int threads, Work work) {
  const int64_t even = (n + threads - 1) / threads;
  const int64_t rounds = (even + kChunk - 1) / kChunk * threads;
  const int64_t size = std::max<int64_t>((n + rounds - 1) / std::max<int64_t>(rounds, 1), 1);
  const int64_t stride = Chunk::stride_for(size);
  std::vector<Scratch> scratch;
  for (int i = 0; i < threads; ++i) {
    scratch.emplace_back(static_cast<size_t>(arrays * stride));
    if (scratch.back().data == nullptr) return 1;
  }
#pragma omp parallel for schedule(static, 1) num_threads(threads)
  for (int64_t r = 0; r < rounds; ++r) {
    const int64_t begin = r * size, count = std::min(size, n - begin);
    if (count > 0) work(Chunk{scratch[thread_index()].data, stride}, begin, count);
  }
  return 0;
}

// sum += gradient in the position of sum over corners of weight * d.
inline void add_gradient(const Block& b, const float d[8][kLanes], float* sum_x, float* sum_y, float* sum_z) {
  for (int i = 0; i < kLanes; ++i) {
    float x = 0.f, y = 0.f, z = 0.f;
    for (int q = 0; q < 4; ++q) {
      const float mixed = b.side[0][0][i] * d[2 * q][i] + b.side[0][1][i] * d[2 * q + 1][i];
      x += b.column[q][i] * (d[2 * q + 1][i] - d[2 * q][i]);
      y += b.column_y[q][i] * mixed;
      z += b.column_z[q][i] * mixed;
    }
    sum_x[i] += b.slope[0][i] * x, sum_y[i] += y, sum_z[i] += z;
  }
}

// sum += the Hessian of the same sum, times a direction u.
inline void add_hessian_product(const Block& b, const float d[8][kLanes], const float* const u[3], float* sum_x,
                                float* sum_y, float* sum_z) {
  for (int i = 0; i < kLanes; ++i) {
    float xx = 0.f, xy = 0.f, xz = 0.f, yy = 0.f, yz = 0.f, zz = 0.f;
    for (int q = 0; q < 4; ++q) {
      const float up_y = q & 1 ? 1.f : -1.f, up_z = q & 2 ? 1.f : -1.f;
      const float mixed = b.side[0][0][i] * d[2 * q][i] + b.side[0][1][i] * d[2 * q + 1][i];
      const float rise = d[2 * q + 1][i] - d[2 * q][i];
      xx += b.column[q][i] * rise;
      xy += b.column_y[q][i] * rise;
      xz += b.column_z[q][i] * rise;
      yy += up_y * b.side[2][q >> 1][i] * mixed;
      zz += up_z * b.side[1][q & 1][i] * mixed;
      yz += up_y * up_z * mixed;
    }
    xx *= b.curve[0][i], yy *= b.curve[1][i], zz *= b.curve[2][i];
    xy *= b.slope[0][i], xz *= b.slope[0][i], yz *= b.slope[1][i] * b.slope[2][i];
    sum_x[i] += u[0][i] * xx + u[1][i] * xy + u[2][i] * xz;
    sum_y[i] += u[0][i] * xy + u[1][i] * yy + u[2][i] * yz;
    sum_z[i] += u[0][i] * xz + u[1][i] * yz + u[2][i] * zz;
  }
}

// out [n, levels F] = features, or their derivative along `direction` [n, 3] when kTurn.
template <int F, bool kTurn>
int encode(const GridParams& p, int threads) {
  const int features = p.active * F, width = p.width();
  advise_huge_pages(p.out, p.count * width * sizeof(float));
  return over_chunks(p.count, features + 6, threads, [&](const Chunk& chunk, int64_t begin, int64_t count) {
    const float *x[3], *u[3];
    chunk.point(features, x), chunk.point(features + 3, u);
    chunk.load_positions(p.positions + 3 * begin, count, features);
    if (kTurn) chunk.load_positions(p.direction + 3 * begin, count, features + 3);
    for (int l = 0; l < p.active; ++l) {
      const GridLevel level = p.level(l);
      const float* rows = p.table + level.first * F;
      float* into = chunk.array(l * F);
      over_blocks<kTurn ? kSlopes : kValues>(level, p.smooth, x, count, rows, F, [&](const Block& b, int64_t i) {
        float x_turn[kLanes], column_turn[4][kLanes];
        if (kTurn) turn(b, u, i, x_turn, column_turn);
        for (int k = 0; k < kLanes; ++k) {
          Pair<F> sum = Pair<F>::zero(), turned = Pair<F>::zero();
          for (int q = 0; q < 4; ++q) {
            const Pair<F> pair = load_pair<F>(rows, b, q, k);
            sum.add(pair, b.column[q][k]);
            if (kTurn) turned.add(pair, column_turn[q][k]);
          }
          if (kTurn) {
            const Row<F> along_x = sum.mix(-x_turn[k], x_turn[k]);
            Row<F>{turned.mix(b.side[0][0][k], b.side[0][1][k]).v + along_x.v}.store(into + (i + k) * F);
          } else {
            sum.mix(b.side[0][0][k], b.side[0][1][k]).store(into + (i + k) * F);
          }
        }
      });
    }
    for (int64_t i = 0; i < count; ++i) {
      float* row = p.out + (begin + i) * width;
      for (int l = 0; l < p.active; ++l) Row<F>::load(chunk.array(l * F) + i * F).store(row + l * F);
      std::fill(row + features, row + width, 0.f);
    }
  });
}

// out [n, 3] = d (features . grad) / d positions; with `direction` [n, 3] its derivative along that direction instead.
template <int F, bool kTurn>
int position_gradient(const GridParams& p, int threads) {
  const int features = p.active * F;
  return over_chunks(p.count, features + 9, threads, [&](const Chunk& chunk, int64_t begin, int64_t count) {
    const float *x[3], *u[3];
    float* sum[3];
    load_features<F>(p, p.grad + begin * p.width(), 0, p.active, 0, count, chunk);
    chunk.point(features, x), chunk.point(features + 3, u);
    chunk.load_positions(p.positions + 3 * begin, count, features);
    if (kTurn) chunk.load_positions(p.direction + 3 * begin, count, features + 3);
    for (int a = 0; a < 3; ++a) {
      sum[a] = chunk.array(features + 6 + a);
      std::fill(sum[a], sum[a] + count + kLanes, 0.f);
    }
    for (int l = 0; l < p.active; ++l) {
      const GridLevel level = p.level(l);
      const float* rows = p.table + level.first * F;
      const float* g = chunk.array(l * F);
      over_blocks<kTurn ? kCurves : kSlopes>(level, p.smooth, x, count, rows, F, [&](const Block& b, int64_t i) {
        float d[8][kLanes];  // rows . grad
        const int lanes = static_cast<int>(std::min<int64_t>(kLanes, count - i));
        for (int k = 0; k < lanes; ++k) {
          const Row<F> weight = Row<F>::load(g + (i + k) * F);
          for (int c = 0; c < 8; ++c) {
            d[c][k] = dot(Row<F>::load(rows + size_t{b.row[c][k]} * F), weight);
          }
        }
        if (kTurn) {
          const float* const at[3] = {u[0] + i, u[1] + i, u[2] + i};
          add_hessian_product(b, d, at, sum[0] + i, sum[1] + i, sum[2] + i);
        } else {
          add_gradient(b, d, sum[0] + i, sum[1] + i, sum[2] + i);
        }
      });
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int a = 0; a < 3; ++a) p.out[3 * (begin + i) + a] = sum[a][i];
    }
  });
}

template <int F>
void clear_level(const GridParams& p, int l) {
  std::fill(p.out + p.offsets[l] * F, p.out + p.offsets[l + 1] * F, 0.f);
}

// Adds a range of samples to the rows of level l.
template <int F, bool kTurn>
void add_to_level(const GridParams& p, int l, const float* const x[3], const float* const u[3], const float* grad,
                  int64_t count) {
  const GridLevel level = p.level(l);
  float* rows = p.out + level.first * F;
  over_blocks<kTurn ? kSlopes : kValues>(level, p.smooth, x, count, rows, F, [&](const Block& b, int64_t i) {
    float x_turn[kLanes], column_turn[4][kLanes];
    if (kTurn) turn(b, u, i, x_turn, column_turn);
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, count - i));
    for (int k = 0; k < lanes; ++k) {
      const Row<F> g = Row<F>::load(grad + (i + k) * F);
      const Pair<F> mixed = Pair<F>::outer(g, b.side[0][0][k], b.side[0][1][k]);
      for (int q = 0; q < 4; ++q) {
        float* a = rows + size_t{b.row[2 * q][k]} * F;
        float* c = rows + size_t{b.row[2 * q + 1][k]} * F;
        Pair<F> part = Pair<F>::zero();
        if (kTurn) {
          part.add(mixed, column_turn[q][k]);
          part.add(Pair<F>::outer(g, -x_turn[k], x_turn[k]), b.column[q][k]);
        } else {
          part.add(mixed, b.column[q][k]);
        }
        part.add_to(a, c);
      }
    }
  });
}

// out [rows, F] = d (features . grad) / d table, or with `direction` the derivative of that along it. Cotangents are
// turned for a group of levels at a time, to bound the scratch memory.
template <int F, bool kTurn>
int table_gradient(const GridParams& p, int threads) {
  const int64_t size = std::max<int64_t>(std::min(p.count, 2 * kChunk), 1);
  const int64_t stride = Chunk::stride_for(size);
  const int group = std::max(16 / F, threads);
  const int64_t axes = std::min(group, p.active) * F;  // the positions follow the features
  const Scratch scratch(static_cast<size_t>((axes + 6) * stride));
  if (scratch.data == nullptr) return 1;
  const Chunk chunk{scratch.data, stride};
  const float *x[3], *u[3];
  chunk.point(axes, x), chunk.point(axes + 3, u);
  advise_huge_pages(p.out, p.offsets[p.levels] * F * sizeof(float));
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(dynamic) nowait
    for (int l = p.count > 0 ? p.active : 0; l < p.levels; ++l) clear_level<F>(p, l);
    for (int64_t begin = 0; begin < p.count; begin += size) {
      const int64_t count = std::min(size, p.count - begin);
#pragma omp barrier  // the last range is done with the scratch
#pragma omp single nowait
      chunk.load_positions(p.positions + 3 * begin, count, axes);
#pragma omp single nowait
      if (kTurn) chunk.load_positions(p.direction + 3 * begin, count, axes + 3);
      for (int first = 0; first < p.active; first += group) {
        const int last = std::min(first + group, p.active);
#pragma omp for schedule(static)
        for (int64_t part = 0; part < count; part += 1024) {
          const int64_t end = std::min(part + 1024, count);
          load_features<F>(p, p.grad + begin * p.width(), first, last, part, end, chunk);
        }
#pragma omp for schedule(dynamic)
        for (int l = last - 1; l >= first; --l) {
          if (begin == 0) clear_level<F>(p, l);  // here, so that the rows are in cache when the first sample comes
          add_to_level<F, kTurn>(p, l, x, u, chunk.array((l - first) * F), count);
        }
      }
    }
  }
  return 0;
}

template <class Call>
int by_features(const GridParams& p, Call call) {
  switch (p.features) {
    case 1: return call(std::integral_constant<int, 1>{});
    case 2: return call(std::integral_constant<int, 2>{});
    case 4: return call(std::integral_constant<int, 4>{});
    default: return call(std::integral_constant<int, 8>{});
  }
}

}  // namespace

// All return 0, or 1 when there is no memory.

DL_API int dl_hashgrid_encode(const dl::GridParams* p, int threads) {
  return by_features(*p, [=](auto f) {
    return p->direction ? encode<f, true>(*p, threads) : encode<f, false>(*p, threads);
  });
}

DL_API int dl_hashgrid_position_gradient(const dl::GridParams* p, int threads) {
  return by_features(*p, [=](auto f) {
    return p->direction ? position_gradient<f, true>(*p, threads) : position_gradient<f, false>(*p, threads);
  });
}

DL_API int dl_hashgrid_table_gradient(const dl::GridParams* p, int threads) {
  return by_features(*p, [=](auto f) {
    return p->direction ? table_gradient<f, true>(*p, threads) : table_gradient<f, false>(*p, threads);
  });
}
