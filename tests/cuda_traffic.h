// SPDX-License-Identifier: Apache-2.0
// cuda_traffic.h - what a kernel that runs on the host asks of a device's memory.
//
// The compiler's thread sanitizer calls a function before every load and store; these here stand in for its library.
// Lanes of a warp that come to the same instruction for the same time count as one request, as they do on a device; a
// request is charged the sectors of 32 bytes it touches in global memory, or the rounds its bank conflicts take when it
// writes to shared memory. Not counted: local variables and parameters, which a device keeps in registers, and reads of
// shared memory, which are made where lanes diverge: times say nothing there.
#pragma once
#include <algorithm>
#include <cstdint>
#include <map>
#include <unordered_set>
#include <vector>

#define UNWATCHED __attribute__((no_sanitize("thread")))

extern char __start_device_shared __attribute__((weak)), __stop_device_shared __attribute__((weak));

namespace traffic {

constexpr uintptr_t kSector = 32;
enum What { kRead, kWrite, kAdd, kKinds };

struct Access {
  uintptr_t place, address;
  unsigned bytes;
  What what;
  int64_t time;
};

struct Counts {
  int64_t requests[kKinds];      // of warps, to global memory
  int64_t sectors[kKinds];       // that they touched
  int64_t bytes[kKinds];         // that lanes asked for
  int64_t fresh[kKinds];         // bytes in sectors touched for the first time: what has to come or go once
  int64_t shared, rounds;        // requests of warps that write to shared memory; rounds they take
};

static Counts counts;
static int64_t now;
static bool on;    // false also while this file works: what it uses of std is watched as well
static std::vector<std::pair<uintptr_t, uintptr_t>> global;
static std::vector<std::vector<Access>> lanes;
static std::unordered_set<uintptr_t> seen[kKinds];

UNWATCHED static inline bool in_shared(uintptr_t at) {
  return at >= uintptr_t(&__start_device_shared) && at < uintptr_t(&__stop_device_shared);
}

UNWATCHED static inline bool in_global(uintptr_t at) {
  auto after = std::upper_bound(global.begin(), global.end(), std::make_pair(at, ~uintptr_t(0)));
  return after != global.begin() && at < (--after)->second;
}

UNWATCHED static inline void note(const void* address, unsigned bytes, What what, const void* place) {
  const uintptr_t at = uintptr_t(address);
  if (!on) return;
  on = false;
  if ((what == kWrite && in_shared(at)) || in_global(at)) {
    if (lanes.size() <= host::current) lanes.resize(host::current + 1);
    lanes[host::current].push_back({uintptr_t(place), at, bytes, what, now++});
  }
  on = true;
}

__attribute__((noinline)) UNWATCHED static void added(const void* address, unsigned bytes) {
  note(address, bytes, kAdd, __builtin_return_address(0));
}

// Rounds of a request to shared memory: 32 banks of 4 bytes; lanes that ask for the same word share it. Wide requests
// go a half or a quarter of the warp at a time.
UNWATCHED static int64_t rounds_of(const std::vector<Access>& request) {
  int64_t rounds = 0;
  const size_t together = 128 / std::max(4u, request[0].bytes);
  for (size_t first = 0; first < request.size(); first += together) {
    std::vector<uintptr_t> words;
    for (size_t i = first; i < std::min(first + together, request.size()); i++)
      for (uintptr_t word = request[i].address / 4; word <= (request[i].address + request[i].bytes - 1) / 4; word++)
        words.push_back(word);
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    int64_t load[32] = {};
    for (const uintptr_t word : words) load[word % 32]++;
    rounds += *std::max_element(load, load + 32);
  }
  return rounds;
}

UNWATCHED static void charge(const std::vector<Access>& request) {
  if (in_shared(request[0].address)) {
    counts.shared += 1, counts.rounds += rounds_of(request);
    return;
  }
  const What what = request[0].what;
  std::vector<uintptr_t> sectors;
  for (const Access& access : request) {
    counts.bytes[what] += access.bytes;
    for (uintptr_t s = access.address / kSector; s <= (access.address + access.bytes - 1) / kSector; s++)
      sectors.push_back(s);
  }
  std::sort(sectors.begin(), sectors.end());
  sectors.erase(std::unique(sectors.begin(), sectors.end()), sectors.end());
  counts.requests[what]++, counts.sectors[what] += int64_t(sectors.size());
  for (const uintptr_t s : sectors) {
    const bool own = what == kRead && seen[kWrite].count(s);  // of this kernel: it need not come from memory
    counts.fresh[what] += seen[what].insert(s).second && !own ? int64_t(kSector) : 0;
  }
}

// A block has ended: its requests in the order in which they were made.
UNWATCHED static void finish(unsigned threads) {
  if (!on) return;
  on = false;
  std::map<std::pair<uintptr_t, uint64_t>, std::vector<Access>> requests;  // by place; by warp and how often it was there
  for (unsigned lane = 0; lane < threads && lane < lanes.size(); lane++) {
    std::map<uintptr_t, uint64_t> times;
    for (const Access& access : lanes[lane])
      requests[{access.place, uint64_t(lane / 32) << 48 | times[access.place]++}].push_back(access);
  }
  std::vector<const std::vector<Access>*> in_order;
  for (const auto& each : requests) in_order.push_back(&each.second);
  std::sort(in_order.begin(), in_order.end(), [](auto* a, auto* b) { return (*a)[0].time < (*b)[0].time; });
  for (const auto* each : in_order) charge(*each);
  for (auto& lane : lanes) lane.clear();
  on = true;
}

}  // namespace traffic

#define WATCH(NAME, BYTES, WHAT) \
  extern "C" __attribute__((visibility("hidden"))) UNWATCHED void __tsan_##NAME(void* a) { traffic::note(a, BYTES, traffic::WHAT, __builtin_return_address(0)); }
#define WATCH_SIZE(N) \
  WATCH(read##N, N, kRead) WATCH(write##N, N, kWrite) WATCH(unaligned_read##N, N, kRead) WATCH(unaligned_write##N, N, kWrite)
WATCH_SIZE(1)
WATCH_SIZE(2)
WATCH_SIZE(4)
WATCH_SIZE(8)
WATCH_SIZE(16)
#define WATCH_RANGE(NAME, WHAT) \
  extern "C" __attribute__((visibility("hidden"))) UNWATCHED void __tsan_##NAME(void* a, size_t n) { traffic::note(a, unsigned(n), traffic::WHAT, __builtin_return_address(0)); }
WATCH_RANGE(read_range, kRead)
WATCH_RANGE(write_range, kWrite)
#define HIDDEN extern "C" __attribute__((visibility("hidden"))) UNWATCHED
HIDDEN void __tsan_init() {}
HIDDEN void __tsan_func_entry(void*) {}
HIDDEN void __tsan_func_exit() {}
HIDDEN void __tsan_vptr_update(void**, void*) {}
HIDDEN void __tsan_vptr_read(void**) {}

// Counts what follows; `ranges` are pairs of addresses [first, end) of global memory.
extern "C" __attribute__((visibility("default"))) UNWATCHED void host_traffic_begin(const uintptr_t* ranges, int64_t count) {
  traffic::counts = {};
  traffic::global.clear();
  for (int64_t i = 0; i < count; i++) traffic::global.push_back({ranges[2 * i], ranges[2 * i + 1]});
  std::sort(traffic::global.begin(), traffic::global.end());
  for (auto& each : traffic::seen) each.clear();
  traffic::on = true;
}

extern "C" __attribute__((visibility("default"))) UNWATCHED void host_traffic_end(traffic::Counts* out) {
  traffic::on = false;
  *out = traffic::counts;
}
