// SPDX-License-Identifier: Apache-2.0
// raster_cuda.cu - the rasteriser on a GPU; the same arithmetic as on the CPU (raster.h), hence the same triangles.
//
// Visibility is an atomic minimum of (depth, triangle) per pixel, so the result does not depend on the order of threads.
// One thread draws a small triangle; larger ones and those that must be cut go to a list that whole blocks draw after.
#include "raster.h"

using namespace dl;

namespace {

constexpr int kThreadPixels = 128;
constexpr int kSlices = 16;  // rows of a large triangle are dealt to this many blocks

__device__ unsigned long long key_of(float z, int64_t t) {
  const unsigned int b = __float_as_uint(z), ordered = b & 0x80000000u ? ~b : b | 0x80000000u;
  return (unsigned long long)ordered << 32 | (unsigned int)(t + 1);
}

__device__ bool covers(const Fill& f, int column, int row) {
  return (edge_at(f, 0, column, row) | edge_at(f, 1, column, row) | edge_at(f, 2, column, row)) >= 0;
}

__device__ void draw(unsigned long long* keys, int width, const Fill& f, int64_t t, int column, int row) {
  if (!covers(f, column, row)) return;
  const float z = depth_at(f, column, row);
  if (z <= 1.f) atomicMin(keys + int64_t(row) * width + column, key_of(z, t));
}

// The screen pieces of triangle t: itself, or what is left of it inside the planes. Returns the number of corners of the
// fan; 0 when nothing is seen.
__device__ int pieces(const RasterParams& p, const Corner* corners, int64_t view, int64_t t, Corner* fan) {
  const int32_t* v = p.triangles + 3 * t;
  for (int i = 0; i < 3; ++i)
    if (v[i] < 0 || v[i] >= p.vertices) return 0;
  for (int i = 0; i < 3; ++i) fan[i] = corners[view * p.vertices + v[i]];
  const int all = fan[0].mask | fan[1].mask | fan[2].mask;
  if (all == 0) return 3;
  if ((all & kBroken) || (fan[0].mask & fan[1].mask & fan[2].mask)) return 0;
  Hom polygon[kMaxPolygon];
  for (int i = 0; i < 3; ++i) polygon[i] = to_pixel(p.clip + 4 * (view * p.vertices + v[i]), int(p.height), int(p.width));
  const int n = clip_polygon(polygon);
  for (int i = 0; i < n; ++i) fan[i] = snap(polygon[i]);
  return n;
}

__device__ int64_t global_thread() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

}  // namespace

extern "C" __global__ void dl_raster_project(RasterParams p, Corner* corners) {
  const int64_t k = global_thread();
  if (k < p.views * p.vertices) corners[k] = project(p.clip + 4 * k, int(p.height), int(p.width));
}

// large: [0] how many follow.
extern "C" __global__ void dl_raster_small(RasterParams p, const Corner* corners, unsigned long long* keys, unsigned long long* large) {
  const int64_t k = global_thread();
  if (k >= p.views * p.count) return;
  const int64_t view = k / p.count, t = k % p.count;
  const int width = int(p.width), height = int(p.height);
  const int32_t* v = p.triangles + 3 * t;
  for (int i = 0; i < 3; ++i)
    if (v[i] < 0 || v[i] >= p.vertices) return;
  const Corner* set = corners + view * p.vertices;
  const Corner a = set[v[0]], b = set[v[1]], c = set[v[2]];
  const int all = a.mask | b.mask | c.mask;
  if ((all & kBroken) || (a.mask & b.mask & c.mask)) return;
  const Box box = all ? Box{0, 0, 0, 0} : box_of(a, b, c, height, width);
  if (box.c0 > box.c1 || box.r0 > box.r1) return;
  if (all || int64_t(box.c1 - box.c0 + 1) * (box.r1 - box.r0 + 1) > kThreadPixels) {
    large[1 + atomicAdd(large, 1ull)] = (unsigned long long)k;
    return;
  }
  Fill f;
  if (!setup(a, b, c, f)) return;
  for (int row = box.r0; row <= box.r1; ++row)
    for (int column = box.c0; column <= box.c1; ++column) draw(keys + view * height * width, width, f, t, column, row);
}

extern "C" __global__ void dl_raster_large(RasterParams p, const Corner* corners, unsigned long long* keys, const unsigned long long* large) {
  const int width = int(p.width), height = int(p.height);
  const int64_t jobs = int64_t(large[0]) * kSlices;
  for (int64_t job = blockIdx.x; job < jobs; job += gridDim.x) {
    const int64_t k = int64_t(large[1 + job / kSlices]), view = k / p.count, t = k % p.count;
    const int slice = int(job % kSlices);
    Corner fan[kMaxPolygon];
    const int n = pieces(p, corners, view, t, fan);
    for (int i = 1; i + 1 < n; ++i) {
      const Box box = box_of(fan[0], fan[i], fan[i + 1], height, width);
      Fill f;
      if (box.c0 > box.c1 || box.r0 > box.r1 || !setup(fan[0], fan[i], fan[i + 1], f)) continue;
      const int columns = box.c1 - box.c0 + 1, rows = (box.r1 - box.r0 + kSlices - slice) / kSlices;
      for (int64_t q = threadIdx.x; q < int64_t(columns) * rows; q += blockDim.x)
        draw(keys + view * height * width, width, f, t, box.c0 + int(q % columns), box.r0 + slice + kSlices * int(q / columns));
    }
  }
}

extern "C" __global__ void dl_raster_resolve(RasterParams p, const unsigned long long* keys, int32_t* triangle) {
  const int64_t k = global_thread();
  if (k >= p.views * p.height * p.width) return;
  triangle[k] = keys[k] == ~0ull ? 0 : int32_t(keys[k] & 0xffffffffu);
}

namespace {

struct Pixel {
  Corners3<float> corners;
  PixelFrame<float> frame;
  int64_t vertex[3];
};

__device__ bool gather(const RasterParams& p, const int32_t* triangle, int64_t k, Pixel& pixel) {
  const int64_t id = triangle[k];
  if (id <= 0 || id > p.count) return false;
  const int64_t view = k / (p.height * p.width), row = k / p.width % p.height, column = k % p.width;
  for (int i = 0; i < 3; ++i) {
    const int64_t v = p.triangles[3 * (id - 1) + i];
    if (v < 0 || v >= p.vertices) return false;
    pixel.vertex[i] = view * p.vertices + v;
    const float* c = p.clip + 4 * pixel.vertex[i];
    pixel.corners.x[i] = c[0], pixel.corners.y[i] = c[1], pixel.corners.z[i] = c[2], pixel.corners.w[i] = c[3];
  }
  pixel.frame = {0.5f * p.width - 0.5f - float(column), 0.5f * p.height - 0.5f - float(row), 0.5f * p.width, 0.5f * p.height};
  return true;
}

}  // namespace

extern "C" __global__ void dl_raster_barycentrics(RasterParams p, const int32_t* triangle, float* uv, float* depth, float* slope) {
  const int64_t k = global_thread();
  if (k >= p.views * p.height * p.width) return;
  Pixel pixel;
  float d[4] = {0.f, 0.f, 0.f, 0.f}, u = 0.f, v = 0.f, z = 0.f;
  if (gather(p, triangle, k, pixel)) {
    const Weights<float> w = weights(pixel.corners, pixel.frame);
    weight_slopes(pixel.corners, w, d);
    u = w.b[0], v = w.b[1], z = w.depth;
  }
  uv[2 * k] = u, uv[2 * k + 1] = v, depth[k] = z;
  for (int i = 0; i < 4; ++i) slope[4 * k + i] = d[i];
}

// Adds to grad_clip: the sum of a vertex depends on the order of threads in its last bits.
extern "C" __global__ void dl_raster_barycentrics_backward(
    RasterParams p, const int32_t* triangle, const float* grad_uv, const float* grad_depth, float* grad_clip) {
  const int64_t k = global_thread();
  if (k >= p.views * p.height * p.width) return;
  Pixel pixel;
  if (!gather(p, triangle, k, pixel)) return;
  const Weights<float> w = weights(pixel.corners, pixel.frame);
  const Corners3<float> g = weights_backward(pixel.corners, pixel.frame, w, grad_uv[2 * k], grad_uv[2 * k + 1], grad_depth[k]);
  for (int i = 0; i < 3; ++i) {
    float* to = grad_clip + 4 * pixel.vertex[i];
    atomicAdd(to, g.x[i]), atomicAdd(to + 1, g.y[i]), atomicAdd(to + 2, g.z[i]), atomicAdd(to + 3, g.w[i]);
  }
}
