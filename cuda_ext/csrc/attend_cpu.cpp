// SPDX-License-Identifier: Apache-2.0
// attend_cpu.cpp - attention of normed queries to normed keys, eight queries at a time; scores never leave the cache.
// One head of one sample is one thread's, so any thread count gives the same bits.
#include "rows.h"
#include "tile.h"

#include <vector>

namespace dl {

struct AttendParams {
  const void* query;  // [samples, queries, heads x width]
  const void* told;   // [samples, keys, 2 x heads x width]: keys, then values
  const float* mask;  // [samples, keys] added to the scores, or null
  int64_t samples, queries, keys, heads, width;
  int32_t half;
};

}  // namespace dl

using namespace dl;

namespace {

constexpr float kLeast = -126.f;  // exponent below which exp2_ may not go

int64_t up_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Two rows side by side as the right factor of a product wants them: a vector of 16 pairs.
inline void put_pair(Bf16* to, const Bf16* first, const Bf16* second, int lanes) {
  const Vi low = bits(take(first, lanes)), high = second ? bits(take(second, lanes)) : Vi{};
  const Vi both = (low >> 16 & 0xffff) | (high & int32_t(0xffff0000));
  memcpy(to, &both, sizeof both);
}
inline void put_pair(float* to, const float* first, const float*, int lanes) { store(to, take(first, lanes)); }

template <int N, class T>
struct Head {
  const AttendParams& p;
  bool fast;
  Shape<N> shape;
  int64_t pitch, all, seen;     // numbers of a query; keys in whole vectors, and in whole steps
  std::vector<T> keys, values;  // packed as tile.h says
  std::vector<T> query, share;  // eight rows of each
  std::vector<float> mask;

  Head(const AttendParams& p)
      : p(p), fast(fast_pairs()), shape{p.width}, pitch(up_to(p.width, step_of(T{}))), all(up_to(p.keys, kLanes)),
        seen(up_to(p.keys, step_of(T{}))), keys(all * pitch), values(seen * up_to(p.width, kLanes)),
        query(kLanes * pitch), share(kTileRows * all), mask(all) {}

  // `count` rows normed, times `scale`, at `to`.
  void norm(const T* from, int64_t stride, int count, float scale, T* to) const {
    Block<N> block;
    block.read(from, stride, count, shape);
    block.norm(count, shape);
    for (int r = 0; r < count; r++)
      for (int i = 0; i < shape.vectors(); i++) give(to + r * pitch + kLanes * i, block.x[r][i] * scale, shape.lanes(i));
  }

  void pack(int64_t sample, int64_t head) {
    const int64_t across = p.heads * p.width, stride = 2 * across, step = step_of(T{});
    const T* from = static_cast<const T*>(p.told) + sample * p.keys * stride + head * p.width;
    std::vector<T> rows(kLanes * pitch);
    for (int64_t key = 0; key < p.keys; key += kLanes) {
      norm(from + key * stride, stride, int(p.keys - key < kLanes ? p.keys - key : kLanes), 1.f, rows.data());
      for (int64_t k = 0; k < pitch / step; k++)
        for (int64_t r = 0; r < kLanes; r++)
          memcpy(&keys[(key * pitch / step + k * kLanes + r) * step], &rows[r * pitch + k * step], step * sizeof(T));
    }
    from += across;
    for (int i = 0; i < shape.vectors(); i++)
      for (int64_t key = 0; key < p.keys; key += step) {
        const T* row = from + key * stride + kLanes * i;
        T* to = &values[(i * seen + key) * kLanes];
        put_pair(to, row, key + 1 < p.keys ? row + stride : nullptr, shape.lanes(i));
      }
    // What is normed has length sqrt(width), so no score lies farther from zero: that, with the mask's highest, is
    // taken off all of a query in place of its own highest, which would be another pass.
    float most = p.mask ? -INFINITY : 0.f;
    for (int64_t key = 0; p.mask && key < p.keys; key++)
      most = p.mask[sample * p.keys + key] > most ? p.mask[sample * p.keys + key] : most;
    const float off = kLog2E * (most + sqrtf(float(p.width)));
    for (int64_t key = 0; key < all; key++)
      mask[key] = key >= p.keys ? -INFINITY : p.mask ? kLog2E * p.mask[sample * p.keys + key] - off : -off;
  }

  void run(int64_t sample, int64_t head, T* out) {
    const int64_t across = p.heads * p.width, step = step_of(T{});
    const T* from = static_cast<const T*>(p.query) + sample * p.queries * across + head * p.width;
    out += sample * p.queries * across + head * p.width;
    const float scale = kLog2E / sqrtf(float(p.width));
    Vf found[kTileRows][kTileVectors];
    for (int64_t first = 0; first < p.queries; first += kTileRows) {
      const int count = int(p.queries - first < kTileRows ? p.queries - first : kTileRows);
      norm(from + first * across, across, count, scale, query.data());
      Vf total[kTileRows] = {};
      const int64_t vectors = all / kLanes, apart = kLanes * pitch;
      for (int64_t v = 0, some; v < vectors; v += some) {
        some = next_tile(int(vectors - v));
        tile_of(int(some), fast, Left<T>{query.data(), pitch, pitch / step, 1, {}}, &keys[v * apart], apart, found);
        for (int i = 0; i < count; i++)
          for (int j = 0; j < some; j++) {
            const int64_t key = (v + j) * kLanes;
            const Vf each = exp2_(max_(found[i][j] + load(&mask[key]), splat_f(kLeast)));
            total[i] += each;
            give(&share[i * all + key], each, kLanes);
          }
      }
      float whole[kTileRows];
      for (int i = 0; i < count; i++) whole[i] = 1.f / sum(total[i]);
      for (int v = 0, some; v < shape.vectors(); v += some) {
        some = next_tile(shape.vectors() - v);
        const Left<T> left{share.data(), all, seen / step, 1, {}};
        tile_of(some, fast, left, &values[v * seen * kLanes], seen * kLanes, found);
        for (int i = 0; i < count; i++)
          for (int j = 0; j < some; j++)
            give(out + (first + i) * across + (v + j) * kLanes, found[i][j] * whole[i], shape.lanes(v + j));
      }
    }
  }
};

template <int N, class T>
void attend(Shape<N>, const AttendParams& p, T* out, int threads) {
#pragma omp parallel num_threads(threads)
  {
    Head<N, T> head(p);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < p.samples * p.heads; ++task) {
      head.pack(task / p.heads, task % p.heads);
      head.run(task / p.heads, task % p.heads, out);
    }
  }
}

}  // namespace

// out like query.
DL_API int dl_attend(const dl::AttendParams* params, void* out, int threads) {
  with_vectors<4, 6>(params->width, [&](auto shape) {
    params->half ? attend(shape, *params, static_cast<Bf16*>(out), threads)
                 : attend(shape, *params, static_cast<float*>(out), threads);
  });
  return 0;
}
