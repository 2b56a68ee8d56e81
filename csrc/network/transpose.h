// Transposes a square of kLanes vectors in registers.
#pragma once

#include <utility>

#include "lanes.h"

namespace fastdiff::network {

/// The transposition for the lane type L.
template <class L>
struct Transpose {
  using F = typename L::F;

  /// Exchanges lane j of v[i] with lane i of v[j], for all i and j.
  static FASTDIFF_INLINE void square(F (&v)[L::kLanes]) { exchange<L::kLanes / 2>(v); }

  /// Picks lanes by number: 0 to kLanes - 1 are those of a, kLanes to 2 kLanes - 1 those of b.
  template <int... kFrom>
  static FASTDIFF_INLINE F shuffle(F a, F b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, kFrom...);
#else
    return __builtin_shuffle(a, b, typename L::I{kFrom...});
#endif
  }

 private:
  using Lanes = std::make_integer_sequence<int, L::kLanes>;

  /// Exchanges the two off-diagonal quarters of each square of 2 kHalf x 2 kHalf numbers, then does
  /// the same within each quarter.
  template <int kHalf>
  static FASTDIFF_INLINE void exchange(F (&v)[L::kLanes]) {
    FASTDIFF_UNROLL
    for (int i = 0; i < L::kLanes; ++i) {
      if (i & kHalf) continue;
      const F upper = v[i], lower = v[i + kHalf];
      v[i] = left<kHalf>(upper, lower, Lanes{});
      v[i + kHalf] = right<kHalf>(upper, lower, Lanes{});
    }
    if constexpr (kHalf > 1) exchange<kHalf / 2>(v);
  }

  template <int kHalf, int... kLane>
  static FASTDIFF_INLINE F left(F upper, F lower, std::integer_sequence<int, kLane...>) {
    return shuffle<(kLane & kHalf ? L::kLanes + kLane - kHalf : kLane)...>(upper, lower);
  }
  template <int kHalf, int... kLane>
  static FASTDIFF_INLINE F right(F upper, F lower, std::integer_sequence<int, kLane...>) {
    return shuffle<(kLane & kHalf ? L::kLanes + kLane : kLane + kHalf)...>(upper, lower);
  }
};

/// Tokens become lanes: lane r of columns[c] is from[r * token + c], or zero behind the last one.
template <class L>
FASTDIFF_INLINE void load_columns(const float* from, int64_t token, int64_t tokens,
                                  int64_t channels, typename L::F (&columns)[L::kLanes]) {
  for (int r = 0; r < L::kLanes; ++r) {
    columns[r] = r < tokens ? load_live<L>(from + r * token, channels) : typename L::F{};
  }
  Transpose<L>::square(columns);
}

}  // namespace fastdiff::network
