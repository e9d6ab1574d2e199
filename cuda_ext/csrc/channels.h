// SPDX-License-Identifier: Apache-2.0
// channels.h - common channel counts compiled out, for CPU launchers.
#pragma once
#include "common.h"

namespace dl {

// A number of channels the compiler knows; 0 means "ask p".
template <int C>
struct Known {
  static constexpr int value = C;
  template <class Params>
  static int64_t of(const Params& p) { return C ? C : p.channels; }
};

// body(Known<C>()) for the C that `channels` is, body(Known<0>()) for any other.
template <int... C, class Body>
void with_channels(int64_t channels, const Body& body) {
  const bool known = ((channels == C && (body(Known<C>()), true)) || ...);
  if (!known) body(Known<0>());
}

}  // namespace dl
