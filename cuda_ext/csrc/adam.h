// SPDX-License-Identifier: Apache-2.0
// adam.h - Adam (Kingma & Ba 2015, algorithm 1) on one number; compiled for CPU and CUDA.
#pragma once
#include "common.h"

namespace dl {

struct AdamParams {
  float lr;                   // step size
  float decay1, decay2;       // 1 - beta
  float keep2;                // beta2
  float log_beta1, log_beta2; // natural logarithms, rounded once: 1 - beta in float has lost its digits
  float eps;                  // added to the root of the second moment, after its bias correction
  const int64_t* step;        // device scalar: number of steps taken before this one
  const uint8_t* skip;        // device scalar: not 0 leaves everything as it is; may be null
  const uint8_t* visible;     // [rows] 0 leaves the row as it is; null touches all rows
  int64_t rows, columns;      // shape of the parameter
};

// One of the tensors that a launch on CUDA steps together.
struct AdamTensor {
  float* param;
  const float* grad;
  float *exp_avg, *exp_avg_sq;
  int64_t* step;              // advanced by 1 at the end
  const uint8_t* visible;     // as above
  int64_t count, columns;
  float lr;
  int32_t first;              // the first of its blocks of kAdamChunk numbers
};

constexpr int kAdamTensors = 32;  // of a launch
constexpr int kAdamChunk = 1024;

struct AdamGroups {
  AdamTensor tensor[kAdamTensors];
  int32_t tensors, blocks;
  float decay1, decay2, keep2, log_beta1, log_beta2, eps;
  uint8_t* healthy;           // device scalar: 0 leaves everything as it is
  uint32_t* done;             // device scalar: blocks that are through
};

// Bias corrections of step t = step + 1; 1 - beta^t through expm1.
struct AdamScale {
  float rate;    // lr / (1 - beta1^t)
  float root;    // 1 / sqrt(1 - beta2^t)
};

DL_HD AdamScale adam_scale(const AdamParams& p) {
  const float t = float(*p.step + 1);
  return {p.lr / -expm1f(t * p.log_beta1), 1.f / sqrtf(-expm1f(t * p.log_beta2))};
}

template <class T>
DL_HD void adam_update(T& x, T g, T& m, T& v, const AdamParams& p, const AdamScale& s) {
  m = m + p.decay1 * (g - m);
  v = p.keep2 * v + p.decay2 * (g * g);
  x = x - s.rate * m / (sqrt_(v) * s.root + p.eps);
}

}  // namespace dl
