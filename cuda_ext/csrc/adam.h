// SPDX-License-Identifier: Apache-2.0
// adam.h - Adam (Kingma & Ba 2015, algorithm 1) on one number; compiled for CPU and CUDA.
#pragma once
#include "common.h"

namespace dl {

struct AdamParams {
  float lr;                   // step size
  float beta1, beta2;         // decay of the two moments
  float eps;                  // added to the root of the second moment, after its bias correction
  const int64_t* step;        // device scalar: number of steps taken before this one
  const uint8_t* skip;        // device scalar: not 0 leaves everything as it is; may be null
  const uint8_t* visible;     // [rows] 0 leaves the row as it is; null touches all rows
  int64_t rows, columns;      // shape of the parameter
};

// Bias corrections of step t = step + 1.
struct AdamScale {
  float rate;    // lr / (1 - beta1^t)
  float root;    // 1 / sqrt(1 - beta2^t)
};

template <class T>
DL_HD void adam_update(T& x, T g, T& m, T& v, const AdamParams& p, const AdamScale& s) {
  m = m + (1.f - p.beta1) * (g - m);
  v = p.beta2 * v + (1.f - p.beta2) * (g * g);
  x = x - s.rate * m / (sqrt_(v) * s.root + p.eps);
}

}  // namespace dl
