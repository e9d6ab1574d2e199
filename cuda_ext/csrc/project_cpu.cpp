// SPDX-License-Identifier: Apache-2.0
// project_cpu.cpp - one layer of a network over maps in one pass: what `modulate` makes of its input, a product (by a
// matrix or over 3 x 3 neighbours), bias, activation, gate and residual. Bands of rows over threads; a number of the
// result is summed by one thread in one order, so any thread count gives the same bits.
#include "rows.h"
#include "tile.h"

#include <vector>

namespace dl {

struct ProjectParams {
  ModulateParams in;     // rows = height x width
  const void* weight;    // packed, see tile.h; rows of 3 x 3 neighbours one part after another
  const float* bias;     // [outputs], or null
  const void* gate;      // [samples, outputs] rows gate_stride apart, or null: ones
  const void* residual;  // like out, or null
  int64_t height, width, outputs, gate_stride;
  int32_t taps, step;  // 1 or 9; a result at each or at every other place
  int32_t act;         // 0 none, 1 relu squared, 2 silu
  int32_t children;    // outputs are those of four children: [samples, 2 height, 2 width, outputs / 4]
  int32_t wide_out;    // float32 whatever the input is
};

}  // namespace dl

using namespace dl;

namespace {

constexpr int kBandRows = 64;  // of a plain product
constexpr int kBandLines = 16;  // of input of a 3 x 3 one, beside the two that its neighbours share

// Rows [first, first + count) of a sample as `modulate` gives them, `pitch` apart at `to`.
template <int N, class T>
void prepare(const ProjectParams& p, int64_t sample, int64_t first, int64_t count, int64_t pitch, T* to) {
  const auto* x = static_cast<const T*>(p.in.x) + (sample * p.height * p.width + first) * p.in.stride;
  const Shape<N> shape{p.in.width};
  Told<N> told;
  told.read(p.in, T{}, sample, shape);
  for (int64_t row = 0; row < count; row += kLanes) {
    const int some = int(count - row < kLanes ? count - row : kLanes);
    Block<N> block;
    block.read(x + row * p.in.stride, p.in.stride, some, shape);
    if (p.in.normed) block.norm(some, shape);
    for (int r = 0; r < some; r++)
      for (int i = 0; i < shape.vectors(); i++) {
        const Vf u = told.there ? block.x[r][i] * told.a[i] + told.b[i] : block.x[r][i];
        give(to + (row + r) * pitch + kLanes * i, p.in.silu ? silu(u) : u, shape.lanes(i));
      }
  }
}

// The same rows as they are.
template <class T>
void copy_rows(const ProjectParams& p, int64_t sample, int64_t first, int64_t count, int64_t pitch, T* to) {
  const auto* x = static_cast<const T*>(p.in.x) + (sample * p.height * p.width + first) * p.in.stride;
  if (p.in.stride == pitch) memcpy(to, x, count * pitch * sizeof(T));
  else for (int64_t row = 0; row < count; row++) memcpy(to + row * pitch, x + row * p.in.stride, p.in.width * sizeof(T));
}

template <class T>
struct Layer {
  const ProjectParams& p;
  void (*rows)(const ProjectParams&, int64_t, int64_t, int64_t, int64_t, T*);  // one of the two above
  bool fast;
  int64_t pitch;  // of a prepared row: an even number of numbers

  int64_t band_lines() const { return kBandLines / p.step; }
  int64_t lines_out() const { return p.taps == 1 ? 1 : p.height / p.step; }
  int64_t line_out() const { return p.taps == 1 ? p.height * p.width : p.width / p.step; }
  int64_t bands() const {
    return p.taps == 1 ? (line_out() + kBandRows - 1) / kBandRows : (lines_out() + band_lines() - 1) / band_lines();
  }
  int64_t room() const {
    const int64_t rows = p.taps == 1 ? kBandRows : (kBandLines + 2) * (p.width + 2);
    return (rows + kTileRows * p.step) * pitch;  // the last tile reads on
  }

  // The lines of input that band `band` of a 3 x 3 product looks at, with zeros around the map.
  void prepare_lines(int64_t sample, int64_t band, T* to) const {
    const int64_t first = band * kBandLines - 1, count = kBandLines + 2;
    for (int64_t line = first; line < first + count; line++, to += (p.width + 2) * pitch) {
      if (line < 0 || line >= p.height) {
        memset(to, 0, (p.width + 2) * pitch * sizeof(T));
        continue;
      }
      memset(to, 0, pitch * sizeof(T));
      rows(p, sample, line * p.width, p.width, pitch, to + pitch);
      memset(to + (p.width + 1) * pitch, 0, pitch * sizeof(T));
    }
  }

  // What becomes of `rows` x `vectors` sums whose first column is `column`; rows go to out + to[i].
  void finish(Vf found[kTileRows][kTileVectors], int rows, int vectors, int64_t column, int64_t sample,
              const int64_t to[kTileRows], void* out) const {
    for (int j = 0; j < vectors; j++, column += kLanes) {
      const int lanes = int(p.outputs - column < kLanes ? p.outputs - column : kLanes);
      if (lanes == kLanes) finish_vector<kLanes>(found, rows, j, lanes, column, sample, to, out);
      else finish_vector<0>(found, rows, j, lanes, column, sample, to, out);
    }
  }

  // One column of vectors; all 16 lanes of it, or (0) some.
  template <int All>
  void finish_vector(Vf found[kTileRows][kTileVectors], int rows, int j, int some, int64_t column, int64_t sample,
                     const int64_t to[kTileRows], void* out) const {
    const int lanes = All ? All : some;
    if (p.bias) {
      const Vf bias = take(p.bias + column, lanes);
      for (int i = 0; i < kTileRows; i++) found[i][j] += bias;
    }
    if (p.act == 1)
      for (int i = 0; i < kTileRows; i++) found[i][j] = max_(found[i][j], Vf{}), found[i][j] *= found[i][j];
    if (p.act == 2)
      for (int i = 0; i < kTileRows; i++) found[i][j] = silu(found[i][j]);
    if (p.gate) {
      const Vf gate = take(static_cast<const T*>(p.gate) + sample * p.gate_stride + column, lanes);
      for (int i = 0; i < kTileRows; i++) found[i][j] *= gate;
    }
    const int64_t each = p.outputs / 4, child = p.children ? column / each : 0;
    const int64_t beside = p.children ? ((child / 2) * 2 * p.width + child % 2) * each + column % each : column;
    if (p.wide_out) leave(found, rows, j, lanes, to, beside, static_cast<float*>(out));
    else leave(found, rows, j, lanes, to, beside, static_cast<T*>(out));
  }

  template <class Out>
  void leave(Vf found[kTileRows][kTileVectors], int rows, int j, int lanes, const int64_t to[kTileRows], int64_t beside,
             Out* out) const {
    if (p.residual)
      for (int i = 0; i < rows; i++) found[i][j] += take(static_cast<const Out*>(p.residual) + to[i] + beside, lanes);
    for (int i = 0; i < rows; i++) give(out + to[i] + beside, found[i][j], lanes);
  }

  // Where `count` rows from (line, place) of a sample begin in the result; with children, the first child of each.
  void begin(int64_t sample, int64_t line, int64_t place, int count, int64_t to[kTileRows]) const {
    const int64_t row = (sample * lines_out() + line) * line_out() + place;
    int64_t y = row / p.width, x = row % p.width;
    for (int i = 0; i < count; i++) {
      to[i] = p.children ? (2 * y * p.width + x) * (p.outputs / 2) : (row + i) * p.outputs;
      if (++x == p.width) x = 0, ++y;
    }
  }

  void band(int64_t sample, int64_t index, T* room, void* out) const {
    const int64_t across = line_out(), first_place = p.taps == 1 ? index * kBandRows : 0;
    const int64_t places = p.taps == 1 ? (across - first_place < kBandRows ? across - first_place : kBandRows) : across;
    const int64_t first_line = p.taps == 1 ? 0 : index * band_lines();
    const int64_t left = lines_out() - first_line, lines = left < band_lines() ? left : band_lines();
    p.taps == 1 ? rows(p, sample, first_place, places, pitch, room) : prepare_lines(sample, index, room);
    Left<T> left_rows{room, p.step * pitch, pitch / step_of(T{}), p.taps, {}};
    const int64_t whole = (p.width + 2) * pitch;
    for (int t = 0; t < p.taps && p.taps > 1; t++) left_rows.offset[t] = t / 3 * whole + t % 3 * pitch;
    const int vectors = int((p.outputs + kLanes - 1) / kLanes);
    const int64_t apart = p.taps * pitch * kLanes;
    for (int v = 0, some; v < vectors; v += some) {
      some = next_tile(vectors - v);
      for (int64_t line = 0; line < lines; line++)
        for (int64_t place = 0; place < places; place += kTileRows) {
          Vf found[kTileRows][kTileVectors];
          left_rows.from = room + line * p.step * whole + place * p.step * pitch;
          tile_of(some, fast, left_rows, static_cast<const T*>(p.weight) + v * apart, apart, found);
          const int count = int(places - place < kTileRows ? places - place : kTileRows);
          int64_t to[kTileRows];
          begin(sample, first_line + line, first_place + place, count, to);
          finish(found, count, some, int64_t(v) * kLanes, sample, to, out);
        }
    }
  }

  void run(void* out, int threads) const {
#pragma omp parallel num_threads(threads)
    {
      std::vector<T> memory(room());
#pragma omp for schedule(static)
      for (int64_t task = 0; task < p.in.samples * bands(); ++task)
        band(task / bands(), task % bands(), memory.data(), out);
    }
  }
};

template <class T>
void project(const ProjectParams& p, void* out, int threads) {
  const int64_t step = step_of(T{}), pitch = (p.in.width + step - 1) / step * step;
  Layer<T> layer{p, copy_rows<T>, fast_pairs(), pitch};
  if (p.in.normed || p.in.told || p.in.silu)
    with_vectors<2, 3, 6, 14>(p.in.width, [&](auto shape) { layer.rows = prepare<decltype(shape)::kVectors, T>; });
  layer.run(out, threads);
}

}  // namespace

DL_API int dl_project_fast() { return fast_pairs(); }

// out [samples, height / step, width / step, outputs], or of children.
DL_API int dl_project(const dl::ProjectParams* params, void* out, int threads) {
  params->in.half ? project<Bf16>(*params, out, threads) : project<float>(*params, out, threads);
  return 0;
}
