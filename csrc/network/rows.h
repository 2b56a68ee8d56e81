// One number of many: sums and extremes along rows, always in the same order.
#pragma once

#include "transpose.h"

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

/// Lanes that are kHalf apart change places.
template <class L, int kHalf, int... kLane>
FASTDIFF_INLINE typename L::F exchanged(typename L::F v, std::integer_sequence<int, kLane...>) {
  return Transpose<L>::template shuffle<(kLane ^ kHalf)...>(v, v);
}

/// All lanes joined in halves, in every lane of the result.
template <class L, int kHalf = L::kLanes / 2, class Join>
FASTDIFF_INLINE typename L::F across(typename L::F v, const Join& join) {
  v = join(v, exchanged<L, kHalf>(v, std::make_integer_sequence<int, L::kLanes>()));
  if constexpr (kHalf > 1) v = across<L, kHalf / 2>(v, join);
  return v;
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
