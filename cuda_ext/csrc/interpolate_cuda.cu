// SPDX-License-Identifier: Apache-2.0
// interpolate_cuda.cu - one thread per pixel; gradients of attributes are added atomically.
#include "interpolate.h"

using namespace dl;

extern "C" __global__ void dl_interpolate(InterpolateParams p, float* value, float* slope) {
  const int64_t k = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k < p.views * p.height * p.width) interpolate_pixel(p, k, p.channels, value + k * p.channels, slope + 2 * k * p.channels);
}

extern "C" __global__ void dl_interpolate_backward(InterpolateParams p, const float* grad_value, const float* grad_slope,
                                                   float* grad_attributes, float* grad_uv) {
  const int64_t k = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= p.views * p.height * p.width) return;
  interpolate_pixel_backward(p, k, p.channels, grad_value + k * p.channels,
                             grad_slope ? grad_slope + 2 * k * p.channels : nullptr, grad_uv + 2 * k,
                             [=](int64_t at, float g) { atomicAdd(grad_attributes + at, g); });
}
