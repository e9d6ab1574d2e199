// SPDX-License-Identifier: Apache-2.0
// room_cuda.cu - the bookkeeping of cuda_ext/room.py in one launch instead of six.
#include "common.h"

// seen[0]: the most an item has needed; seen[1]: how many found no room, in all. `items` 0 leaves the first alone.
extern "C" __global__ void dl_room(double* seen, const int64_t* total, int64_t items, int64_t capacity) {
  if (threadIdx.x || blockIdx.x) return;
  const double each = items > 0 ? double(*total) / double(items) : 0.0;
  if (each > seen[0]) seen[0] = each;
  if (*total > capacity) seen[1] += double(*total - capacity);
}
