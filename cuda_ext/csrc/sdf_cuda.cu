// SPDX-License-Identifier: Apache-2.0
// sdf_cuda.cu - a block of 64 threads draws a tile of 8 x 8 pixels of one view, a thread its pixel's samples in turn.
// The light comes by address (SdfParams::light is the CPU's), so that the host need not read it.
// The block first lists, in shared memory, the rows whose balls the tile's cone of rays meets (as on the CPU).
#include "sdf.h"

namespace dl {

constexpr int kTile = 8;
static_assert(sizeof(SdfRow) == 344, "cuda_ext/sdf.py allocates 344 bytes per row");

struct Sums {
  float colour[3], normal[3], z, nearest;
  int hits, part;
};

__device__ inline void add_sample(const SdfParams& p, const Light& light, const SdfRow* rows, const float* parts,
                                  const float* bound, const float* pose, float x, float y, const RowIndex* near,
                                  int near_count, const RowIndex* all, int all_count, Sums& sums) {
  const float length = length3(x, y, 1.f);
  const Vec3<float> d = {(pose[0] * x + pose[1] * y - pose[2]) / length, (pose[4] * x + pose[5] * y - pose[6]) / length,
                         (pose[8] * x + pose[9] * y - pose[10]) / length};
  const Vec3<float> o = {pose[3], pose[7], pose[11]};
  const float t = trace(rows, near, near_count, bound, o, d, 1.f);
  if (t >= kFar) return;
  const Vec3<float> at = along_ray(o, d, t);
  float winner, radiance[3];
  distance<true>(rows, near, near_count, at, &winner);
  const Vec3<float> n = surface_normal(rows, near, near_count, at);
  const float sky = open_sky(rows, all, all_count, at, n, light.occlusion);
  const SdfRow& row = rows[int(winner)];
  const int part = known_part(row.part, p.part_count);
  const float* finish = parts + part * kPart;
  const float mix = pattern(row, finish, at);
  Surface<float> surface = {{0.f, 0.f, 0.f}, finish[8], finish[9]};
  for (int c = 0; c < 3; c++) surface.colour[c] = finish[c] * (1.f - mix) + finish[3 + c] * mix;
  shade(light, surface, n, {-d.x, -d.y, -d.z}, sky, radiance);
  const float z = t / length;
  for (int c = 0; c < 3; c++) sums.colour[c] += radiance[c];
  sums.normal[0] += n.x, sums.normal[1] += n.y, sums.normal[2] += n.z;
  sums.z += z, sums.hits++;
  if (z < sums.nearest) sums.nearest = z, sums.part = part;
}

}  // namespace dl

using namespace dl;

extern "C" __global__ void dl_sdf_prepare(const float* rows, SdfRow* prepared, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) prepare(rows + int64_t(kRow) * i, prepared[i]);
}

extern "C" __global__ void __launch_bounds__(128) dl_sdf_points(SdfPoints p) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.programs * p.count) return;
  const SdfRow* rows = p.prepared + i / p.count * p.row_count;
  RowIndex list[kMaxRows];
  int listed = 0;
  for (int j = 0; j < p.row_count; j++)
    if (rows[j].kind != kNone) list[listed++] = RowIndex(j);
  float winner;
  p.gap[i] = distance<true>(rows, list, listed, {p.points[3 * i], p.points[3 * i + 1], p.points[3 * i + 2]}, &winner);
  p.part[i] = rows[int(winner)].part;
}

extern "C" __global__ void __launch_bounds__(64, 8) dl_sdf_draw(SdfParams p, const Light* light) {
  __shared__ RowIndex all[kMaxRows], near[kMaxRows];
  __shared__ int all_count, near_count;
  const int across = (p.width + kTile - 1) / kTile, down = (p.height + kTile - 1) / kTile, tile = blockIdx.x % (across * down);
  const int64_t view = blockIdx.x / (across * down), program = view / p.views;
  const SdfRow* rows = p.prepared + program * p.row_count;
  const float *pose = p.pose + 16 * view, *bound = p.bound + 4 * program, *parts = p.parts + program * p.part_count * kPart;
  const float focal = p.focal[view];
  const int left = tile % across * kTile, top = tile / across * kTile;
  if (threadIdx.x == 0) {
    const Cone cone = tile_cone(pose, focal, float(p.height), float(p.width), float(left), float(top),
                                float(left + kTile), float(top + kTile));
    int every = 0, met = 0, matter = 0;
    if (cone_meets(cone, bound, 0.f)) {
      const float margin = blend_margin(rows, p.row_count);
      for (int i = 0; i < p.row_count; i++) {
        if (rows[i].kind == kNone) continue;
        all[every++] = RowIndex(i);
        const bool here = reaches(rows[i], cone, margin);
        matter |= here && (rows[i].op == kUnion || rows[i].op == kGroup);
        if (here) near[met++] = RowIndex(i);
        else if (rows[i].op == kGroup) near[met++] = RowIndex(~i);
      }
    }
    all_count = every, near_count = matter ? met : 0;
  }
  __syncthreads();
  const int column = left + threadIdx.x % kTile, line = top + threadIdx.x / kTile;
  if (column >= p.width || line >= p.height) return;
  Sums sums = {{0.f, 0.f, 0.f}, {0.f, 0.f, 0.f}, 0.f, kFar, 0, -1};
  const int s = p.supersample;
  for (int i = 0; near_count && i < s * s; i++) {
    const float x = (float(column) + (float(i % s) + 0.5f) / float(s) - 0.5f * float(p.width)) / focal;
    const float y = (0.5f * float(p.height) - float(line) - (float(i / s) + 0.5f) / float(s)) / focal;
    add_sample(p, *light, rows, parts, bound, pose, x, y, near, near_count, all, all_count, sums);
  }
  const int64_t pixel = (view * p.height + line) * p.width + column;
  const float mean = sums.hits ? 1.f / float(sums.hits) : 0.f, alpha = float(sums.hits) / float(s * s);
  const float unit = 1.f / max_(length3(sums.normal[0], sums.normal[1], sums.normal[2]), 1e-12f);
  for (int c = 0; c < 3; c++) {
    p.rgb[3 * pixel + c] = to_srgb(sums.colour[c] * mean) * alpha;
    p.normal[3 * pixel + c] = sums.normal[c] * unit;
  }
  p.alpha[pixel] = alpha, p.depth[pixel] = sums.z * mean, p.part[pixel] = sums.part;
}
