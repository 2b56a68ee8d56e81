// One number of many: sums and extremes along rows, always in the same order.
#pragma once

#include "lanes.h"

namespace fastdiff::network {

/// Vectors whose sum begins anew: a sum of many has no long chain of roundings.
constexpr int64_t kChain = 256;

/// Lane by lane, join(total, of(0), of(1), ...) of `count` vectors, in chains of four parts.
template <class L, class Of, class Join>
FASTDIFF_INLINE typename L::F fold(typename L::F neutral, int64_t count, const Of& of,
                                   const Join& join) {
  using F = typename L::F;
  F total = neutral;
  for (int64_t first = 0; first < count; first += kChain) {
    const int64_t end = first + kChain < count ? first + kChain : count;
    F parts[4] = {neutral, neutral, neutral, neutral};
    int64_t i = first;
    for (; i + 4 <= end; i += 4) {
      FASTDIFF_UNROLL
      for (int part = 0; part < 4; ++part) parts[part] = join(parts[part], of(i + part));
    }
    for (; i < end; ++i) parts[0] = join(parts[0], of(i));
    total = join(total, join(join(parts[0], parts[1]), join(parts[2], parts[3])));
  }
  return total;
}

/// The lanes joined into one, in halves.
template <class L, class Join>
FASTDIFF_INLINE float across(typename L::F v, const Join& join) {
  float lanes[2 * L::kLanes] = {};
  for (int half = L::kLanes / 2; half > 0; half /= 2) {
    L::store(lanes, v);
    v = join(v, L::load(lanes + half));
  }
  L::store(lanes, v);
  return lanes[0];
}

/// The first `count` numbers of a vector, then `neutral`.
template <class L>
FASTDIFF_INLINE typename L::F load_or(typename L::F neutral, const float* from, int64_t count) {
  float lanes[L::kLanes];
  L::store(lanes, neutral);
  memcpy(lanes, from, size_t(count) * sizeof(float));
  return L::load(lanes);
}

}  // namespace fastdiff::network
