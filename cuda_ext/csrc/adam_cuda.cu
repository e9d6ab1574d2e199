// SPDX-License-Identifier: Apache-2.0
// adam_cuda.cu - Adam; steps and flags are read on the device, so that launches fit in a CUDA graph.
//
//   dl_adam          one tensor, one thread per number
//   dl_adam_finite   are the gradients of all tensors finite? one block per 1024 numbers
//   dl_adam_groups   all tensors, the same blocks; the block that is through last advances the counts of steps, which
//                    every block has read by then
//
// Two launches and not one: no number may change before all gradients are known, and waiting for all blocks inside a
// kernel asks for a cooperative launch.
#include "adam.h"

using namespace dl;

namespace {

constexpr int kThreads = 256, kEach = kAdamChunk / kThreads;

// The tensor that a block works on; `at` receives the block's first number in it.
__device__ int tensor_of(const AdamGroups& p, int64_t& at) {
  int t = 0;
  while (t + 1 < p.tensors && int(blockIdx.x) >= p.tensor[t + 1].first) t++;
  at = (int64_t(blockIdx.x) - p.tensor[t].first) * kAdamChunk;
  return t;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256)
    dl_adam(float* __restrict__ x, const float* __restrict__ g, float* __restrict__ m, float* __restrict__ v,
            const AdamParams p) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.rows * p.columns || (p.skip && *p.skip)) return;
  if (p.visible && !p.visible[i / p.columns]) return;
  const AdamScale s = adam_scale(p);
  float vx = x[i], vm = m[i], vv = v[i];
  adam_update(vx, g[i], vm, vv, p, s);
  x[i] = vx, m[i] = vm, v[i] = vv;
}

// Clears *healthy when a gradient is not finite; threads that find one write the same.
extern "C" __global__ void __launch_bounds__(256) dl_adam_finite(const AdamGroups p) {
  int64_t at;
  const AdamTensor& tensor = p.tensor[tensor_of(p, at)];
  bool finite = true;
#pragma unroll
  for (int j = 0; j < kEach; j++) {
    const int64_t i = at + j * kThreads + threadIdx.x;
    if (i < tensor.count) finite = finite && finite_(tensor.grad[i]);
  }
  if (!finite) *p.healthy = 0;
  if (blockIdx.x == 0 && threadIdx.x == 0) *p.done = 0;
}

extern "C" __global__ void __launch_bounds__(256) dl_adam_groups(const AdamGroups p) {
  if (!*p.healthy) return;
  int64_t at;
  const AdamTensor& tensor = p.tensor[tensor_of(p, at)];
  AdamParams one = {};
  one.lr = tensor.lr, one.decay1 = p.decay1, one.decay2 = p.decay2, one.keep2 = p.keep2, one.eps = p.eps;
  one.log_beta1 = p.log_beta1, one.log_beta2 = p.log_beta2, one.step = tensor.step;
  const AdamScale scale = adam_scale(one);
  float x[kEach], g[kEach], m[kEach], v[kEach];
  bool here[kEach];
#pragma unroll
  for (int j = 0; j < kEach; j++) {
    const int64_t i = at + j * kThreads + threadIdx.x;
    here[j] = i < tensor.count && (!tensor.visible || tensor.visible[i / tensor.columns]);
    if (here[j]) x[j] = tensor.param[i], g[j] = tensor.grad[i], m[j] = tensor.exp_avg[i], v[j] = tensor.exp_avg_sq[i];
  }
#pragma unroll
  for (int j = 0; j < kEach; j++) {
    const int64_t i = at + j * kThreads + threadIdx.x;
    if (!here[j]) continue;
    adam_update(x[j], g[j], m[j], v[j], one, scale);
    tensor.param[i] = x[j], tensor.exp_avg[i] = m[j], tensor.exp_avg_sq[i] = v[j];
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  __threadfence();
  if (atomicAdd(p.done, 1u) != uint32_t(p.blocks) - 1) return;
  for (int t = 0; t < p.tensors; t++) *p.tensor[t].step += 1;
  *p.done = 0;
}
