// SPDX-License-Identifier: Apache-2.0
// cuda_on_host.h - runs a CUDA kernel on the host: blocks one after the other, a block's threads as fibers.
//
// A fiber runs until it waits: for its block (__syncthreads and kin) or for its warp (shuffles, votes). Threads are
// taken in ascending order in even blocks and in descending order in odd ones, so that a missing barrier shows. What a
// device would hang on ends the process with a line. Shared memory is static and starts as the last block left it.
#pragma once
#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __shared__ static __attribute__((section("device_shared")))
#define __align__(N) __attribute__((aligned(N)))
#define __launch_bounds__(...)

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
static Index threadIdx, blockIdx, blockDim, gridDim;
namespace host {
static unsigned current;  // thread of the block
}
// Copied whole, as a device does: the compiler would take them apart into four loads.
#define DEVICE_VECTOR(NAME, N, ...)                                         \
  struct alignas(4 * N) NAME {                                              \
    typedef float Whole __attribute__((vector_size(4 * N), may_alias));     \
    union {                                                                 \
      struct { float __VA_ARGS__; };                                        \
      Whole whole;                                                          \
    };                                                                      \
    NAME() : whole{} {}                                                     \
    NAME(const NAME& from) : whole(from.whole) {}                           \
    NAME& operator=(const NAME& from) { whole = from.whole; return *this; } \
  };
DEVICE_VECTOR(float2, 2, x, y)
DEVICE_VECTOR(float4, 4, x, y, z, w)
static inline float2 make_float2(float x, float y) { float2 v; v.x = x, v.y = y; return v; }
static inline float4 make_float4(float x, float y, float z, float w) { float4 v; v.x = x, v.y = y, v.z = z, v.w = w; return v; }

#ifdef CUDA_TRAFFIC
#include "cuda_traffic.h"
#else
#define UNWATCHED
namespace traffic {
static inline void added(const void*, unsigned) {}
static inline void finish(unsigned) {}
}  // namespace traffic
#endif

static inline int __float_as_int(float x) { int i; memcpy(&i, &x, 4); return i; }
static inline float __int_as_float(int i) { float x; memcpy(&x, &i, 4); return x; }
static inline unsigned __float_as_uint(float x) { unsigned u; memcpy(&u, &x, 4); return u; }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <class T>
UNWATCHED T atomicAdd(T* to, T x) { traffic::added(to, sizeof(T)); const T old = *to; *to = old + x; return old; }
template <class T>
UNWATCHED T atomicMin(T* to, T x) { traffic::added(to, sizeof(T)); const T old = *to; *to = x < old ? x : old; return old; }

namespace host {

constexpr unsigned kWarp = 32;
constexpr size_t kStack = 1 << 16;
enum State { kReady, kAtWarp, kAtBlock, kDone };

struct Fiber {
  State state;
  bool started;
  unsigned votes, shuffles;  // parity picks the buffer: a fast thread must not overwrite what a slow one has yet to read
  jmp_buf at;
};

static std::vector<Fiber> fibers;
static std::vector<char> stacks;
static std::vector<uint32_t> exchange[2], ballot[2];
static jmp_buf scheduler;
static void (*body)(void**);
static void** arguments;

UNWATCHED static void enter() {
  body(arguments);
  fibers[current].state = kDone;
  _longjmp(scheduler, 1);
}

UNWATCHED static void resume(unsigned t) {
  current = t, threadIdx.x = t;
  Fiber& fiber = fibers[t];
  if (_setjmp(scheduler)) return;
  if (fiber.started) _longjmp(fiber.at, 1);
  fiber.started = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = stacks.data() + t * kStack;
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, enter, 0);
  setcontext(&context);
}

UNWATCHED static void wait(State where) {
  Fiber& fiber = fibers[current];
  fiber.state = where;
  if (!_setjmp(fiber.at)) _longjmp(scheduler, 1);
}

// Lets go the threads [first, last) when all that still run wait at `where`.
UNWATCHED static bool release(unsigned first, unsigned last, State where) {
  unsigned waiting = 0;
  for (unsigned t = first; t < last; t++) {
    if (fibers[t].state != where && fibers[t].state != kDone) return false;
    waiting += fibers[t].state == where;
  }
  for (unsigned t = first; t < last; t++)
    if (fibers[t].state == where) fibers[t].state = kReady;
  return waiting > 0;
}

UNWATCHED static void run_block(unsigned threads, bool descending) {
  fibers.assign(threads, Fiber{});
  stacks.resize(threads * kStack);
  for (int i = 0; i < 2; i++) exchange[i].assign(threads, 0), ballot[i].assign(threads, 0);
  for (;;) {
    bool moved = false, left = false;
    for (unsigned i = 0; i < threads; i++) {
      const unsigned t = descending ? threads - 1 - i : i;
      if (fibers[t].state == kReady) resume(t), moved = true;
    }
    for (unsigned t = 0; t < threads; t += kWarp)
      moved |= release(t, t + kWarp < threads ? t + kWarp : threads, kAtWarp);
    moved |= release(0, threads, kAtBlock);
    for (const Fiber& fiber : fibers) left |= fiber.state != kDone;
    if (!left) break;
    if (!moved) fprintf(stderr, "the threads of a block wait for each other for ever\n"), abort();
  }
  traffic::finish(threads);
}

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** a, std::index_sequence<I...>) { kernel(*static_cast<std::remove_const_t<A>*>(a[I])...); }

// `Kernel` with a[i] pointing to its argument i; `together` when its threads wait for each other.
template <auto Kernel, class... A>
UNWATCHED void launch(void (*)(A...), const unsigned* grid, unsigned threads, void** a, bool together) {
  gridDim = {grid[0], grid[1], grid[2]}, blockDim = {threads, 1, 1}, threadIdx = {};
  body = [](void** given) { call(Kernel, given, std::index_sequence_for<A...>()); };
  arguments = a;
  for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++) {
      if (together) run_block(threads, blockIdx.x % 2);
      for (unsigned t = 0; t < threads && !together; t++) {
        current = threadIdx.x = blockIdx.x % 2 ? threads - 1 - t : t;
        body(a);
      }
      if (!together) traffic::finish(threads);
    }
}

}  // namespace host

UNWATCHED static inline void __syncthreads() { host::wait(host::kAtBlock); }
static inline void __threadfence() {}
UNWATCHED static inline void __syncwarp() { host::wait(host::kAtWarp); }

UNWATCHED static inline bool __syncthreads_and(bool mine) {
  auto& votes = host::ballot[host::fibers[host::current].votes++ % 2];
  votes[host::current] = mine;
  host::wait(host::kAtBlock);
  bool all = true;
  for (const uint32_t vote : votes) all = all && vote;
  return all;
}

template <class T>
UNWATCHED static inline const uint32_t* host_exchange(T mine) {
  static_assert(sizeof(T) == 4, "lanes exchange 32 bits");
  auto& lanes = host::exchange[host::fibers[host::current].shuffles++ % 2];
  memcpy(&lanes[host::current], &mine, 4);
  host::wait(host::kAtWarp);
  return lanes.data() + host::current / host::kWarp * host::kWarp;
}

template <class T>
UNWATCHED static inline T __shfl_sync(unsigned, T mine, int from) {
  T theirs;
  memcpy(&theirs, host_exchange(mine) + unsigned(from) % host::kWarp, 4);
  return theirs;
}

template <class T>
UNWATCHED static inline T __shfl_xor_sync(unsigned, T mine, int step) {
  return __shfl_sync(0, mine, int(host::current % host::kWarp) ^ step);
}

template <class T>
UNWATCHED static inline T __shfl_up_sync(unsigned, T mine, unsigned step) {
  const int lane = int(host::current % host::kWarp);
  return __shfl_sync(0, mine, lane >= int(step) ? lane - int(step) : lane);
}

template <class T>
UNWATCHED static inline T __shfl_down_sync(unsigned, T mine, unsigned step) {
  const int lane = int(host::current % host::kWarp);
  return __shfl_sync(0, mine, lane + int(step) < int(host::kWarp) ? lane + int(step) : lane);
}

UNWATCHED static inline unsigned __ballot_sync(unsigned, bool mine) {
  const uint32_t* lanes = host_exchange(uint32_t(mine));
  unsigned votes = 0;
  for (unsigned i = 0; i < host::kWarp; i++) votes |= unsigned(lanes[i] != 0) << i;
  return votes;
}

UNWATCHED static inline bool __any_sync(unsigned, bool mine) { return __ballot_sync(0, mine) != 0; }
