// SPDX-License-Identifier: Apache-2.0
// hashgrid_cpu.cpp - CPU launchers of the hash encoding: encode, its two gradients, and what their gradients need.
//
// Plan: levels outermost, so that one level's rows (4 MB at 2^19 x 2) stay in cache while many samples read them.
// Samples go in blocks of 16 lanes: rows and weights come from loops over lanes that the compiler vectorises; the rows
// are then fetched one sample at a time, two neighbours along x side by side, which beats gather instructions. On dense
// levels the two are one load; on hashed ones the far row differs by the bits x + 1 flips, the same in all columns.
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
  uint32_t near[4][kLanes];                        // rows of the corners on side 0 of x
  uint32_t flip[kLanes];                           // hashed: near ^ flip is the row on side 1
  uint32_t rows;                                   // wrapped: of the level, where the row on side 1 is 0 again
  float side[3][2][kLanes];                        // weights along each axis; of y and z only with kCurves
  float column[4][kLanes];                         // weights of the columns: y times z
  float slope[3][kLanes], curve[3][kLanes];        // d side[.][1] / d position, and once more
  float column_y[4][kLanes], column_z[4][kLanes];  // d column / d position
};

enum Order { kValues, kSlopes, kCurves };  // how many derivatives of the weights a launcher needs
enum Kind { kDense, kWrapped, kHashed };   // row on side 1 of x: the next; the next but behind the last the first; any

template <Order order, bool kShifted>
__attribute__((noinline)) void locate(const GridLevel& whose, int smooth, const float* const position[3], int64_t at,
                                      Block* b) {
  const GridLevel level = whose;  // its numbers stay in registers while the block's are stored
  Vu vertex[3][2];
  Vf side[3][2], slope[3];
  for (int a = 0; a < 3; ++a) {
    const Vf x = load(position[a] + at);
    Vf f;
    vertex[a][0] = to_unsigned(to_int(split_cell<kShifted>(clamp_unit(x), level, &f)));
    side[a][1] = ease(f, smooth);
    side[a][0] = 1.f - side[a][1];
    if (order >= kSlopes) store(b->slope[a], slope[a] = ease_slope(f, smooth) * (level.scale * inside_unit(x)));
    if (order >= kCurves) store(b->curve[a], ease_curve(f, smooth) * (level.scale * level.scale * inside_unit(x)));
  }
  vertex[1][0] *= level.step_y, vertex[2][0] *= level.step_z;
  vertex[1][1] = vertex[1][0] + level.step_y, vertex[2][1] = vertex[2][0] + level.step_z;
  b->rows = level.rows;
  if (level.hashed) store(b->flip, (vertex[0][0] ^ (vertex[0][0] + 1u)) & level.mask);
  for (int c = 0; c < 2; ++c) {
    store(b->side[0][c], side[0][c]);
    if (order >= kCurves) store(b->side[1][c], side[1][c]), store(b->side[2][c], side[2][c]);
  }
  for (int q = 0; q < 4; ++q) {
    const int y = q & 1, z = q >> 1;
    if (level.hashed) {
      store(b->near[q], (vertex[0][0] ^ vertex[1][y] ^ vertex[2][z]) & level.mask);
    } else {
      Vu row = vertex[0][0] + vertex[1][y] + vertex[2][z];
      if (kShifted) row -= to_unsigned(row >= level.rows) & level.rows;
      store(b->near[q], row);
    }
    store(b->column[q], side[2][z] * side[1][y]);
    if (order < kSlopes) continue;
    store(b->column_y[q], (y ? slope[1] : -slope[1]) * side[2][z]);
    store(b->column_z[q], (z ? slope[2] : -slope[2]) * side[1][y]);
  }
}

// Asks for the rows of a block. Near and far rows share a cache line unless the hash flips a bit above the line. Asked
// for in the second-level cache: to the first one, twice as slow, and no faster than the loads themselves.
inline void ask(const GridLevel& level, const Block& b, const float* rows, int features) {
  for (int q = 0; q < 4; ++q) {
    for (int k = 0; k < kLanes; ++k) __builtin_prefetch(rows + size_t{b.near[q][k]} * features, 0, 2);
  }
  if (!level.hashed) return;
  for (uint32_t apart = mask_bits(load(b.flip) >= 16u / features); apart; apart &= apart - 1) {
    const int k = __builtin_ctz(apart);
    for (int q = 0; q < 4; ++q) __builtin_prefetch(rows + size_t{b.near[q][k] ^ b.flip[k]} * features, 0, 2);
  }
}

// Calls work(block, first, kind) for every 16 of `count` samples, `lead` blocks after its rows were asked for: they
// are random accesses to a level that may fill the second-level cache several times. Rows that nobody has just written
// may come from memory and need two blocks' time.
template <Order order, int lead, class Work>
inline void over_blocks(const GridLevel& level, int smooth, const float* const position[3], int64_t count,
                        const float* rows, int features, Work work) {
  Block blocks[lead + 1];
  const bool large = static_cast<int64_t>(level.mask) * features > 1 << 17;  // numbers: half of a typical cache
  const int64_t total = (count + kLanes - 1) / kLanes;
  const auto place = level.shift == 0.f ? locate<order, false> : locate<order, true>;
  for (int64_t i = 0; i < total + lead; ++i) {
    if (i < total) {
      Block& next = blocks[i % (lead + 1)];
      place(level, smooth, position, i * kLanes, &next);
      if (large) ask(level, next, rows, features);
    }
    if (i < lead) continue;
    const Block& here = blocks[(i - lead) % (lead + 1)];
    const int64_t first = (i - lead) * kLanes;
    if (level.hashed) {
      work(here, first, std::integral_constant<Kind, kHashed>{});
    } else if (level.shift == 0.f) {
      work(here, first, std::integral_constant<Kind, kDense>{});
    } else {
      work(here, first, std::integral_constant<Kind, kWrapped>{});
    }
  }
}

// Weights of the derivative along `direction` [3][16]: x_turn those of the two sides of x, column_turn of the columns.
inline void turn(const Block& b, const float* const direction[3], int64_t at, float x_turn[2][kLanes],
                 float column_turn[4][kLanes]) {
  const Vf u = load(direction[0] + at), v = load(direction[1] + at), w = load(direction[2] + at);
  const Vf along_x = u * load(b.slope[0]);
  store(x_turn[0], -along_x), store(x_turn[1], along_x);
  for (int q = 0; q < 4; ++q) store(column_turn[q], v * load(b.column_y[q]) + w * load(b.column_z[q]));
}

inline int thread_index() {
#if defined(_OPENMP)
  return omp_get_thread_num();
#else
  return 0;
#endif
}

// Where the rows of column q of sample k lie.
template <int F, Kind kind>
struct Corners {
  uint32_t near, far;

  Corners(const Block& b, int q, int k) : near(b.near[q][k]), far(kind == kHashed ? near ^ b.flip[k] : near + 1) {
    if (kind == kWrapped && far == b.rows) far = 0;
  }
  Pair<F> load(const float* rows) const {
    const float *a = rows + size_t{near} * F, *c = rows + size_t{far} * F;
    return kind == kDense ? Pair<F>::load_beside(a) : Pair<F>::load(a, c);
  }
  void add(const Pair<F>& part, float* rows) const {
    float *a = rows + size_t{near} * F, *c = rows + size_t{far} * F;
    kind == kDense ? part.add_beside(a) : part.add_to(a, c);
  }
};

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
      constexpr Order order = kTurn ? kSlopes : kValues;
      over_blocks<order, 2>(level, p.smooth, x, count, rows, F, [&](const Block& b, int64_t i, auto kind) {
        float x_turn[2][kLanes], column_turn[4][kLanes];
        if (kTurn) turn(b, u, i, x_turn, column_turn);
        Pairs<F> sums, turned;
        for (int k = 0; k < kLanes; ++k) {
          Pair<F> sum = Pair<F>::zero(), other = Pair<F>::zero();
          for (int q = 0; q < 4; ++q) {
            const Pair<F> pair = Corners<F, kind>(b, q, k).load(rows);
            sum.add(pair, b.column[q][k]);
            if (kTurn) other.add(pair, column_turn[q][k]);
          }
          sums.at[k] = sum;
          if (kTurn) turned.at[k] = other;
        }
        if (kTurn) {
          turned.template mix<false>(b.side[0][0], b.side[0][1], into + i * F);
          sums.template mix<true>(x_turn[0], x_turn[1], into + i * F);
        } else {
          sums.template mix<false>(b.side[0][0], b.side[0][1], into + i * F);
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
      constexpr Order order = kTurn ? kCurves : kSlopes;
      over_blocks<order, 2>(level, p.smooth, x, count, rows, F, [&](const Block& b, int64_t i, auto kind) {
        float d[8][kLanes];  // rows . grad
        for (int q = 0; q < 4; ++q) {
          Pairs<F> pairs;
          for (int k = 0; k < kLanes; ++k) pairs.at[k] = Corners<F, kind>(b, q, k).load(rows);
          pairs.dot(g + i * F, d[2 * q], d[2 * q + 1]);
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
  constexpr Order order = kTurn ? kSlopes : kValues;
  over_blocks<order, 1>(level, p.smooth, x, count, rows, F, [&](const Block& b, int64_t i, auto kind) {
    float x_turn[2][kLanes], column_turn[4][kLanes];
    if (kTurn) turn(b, u, i, x_turn, column_turn);
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, count - i));
    Pairs<F> mixed, turned;
    mixed.outer(grad + i * F, b.side[0][0], b.side[0][1]);
    if (kTurn) turned.outer(grad + i * F, x_turn[0], x_turn[1]);
    for (int k = 0; k < lanes; ++k) {
      for (int q = 0; q < 4; ++q) {
        Pair<F> part = mixed.at[k].times(kTurn ? column_turn[q][k] : b.column[q][k]);
        if (kTurn) part.add(turned.at[k], b.column[q][k]);
        Corners<F, kind>(b, q, k).add(part, rows);
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
