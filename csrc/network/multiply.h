// Matrix products in float32: some rows of activations times one packed panel of weights, with the
// sums in registers.
//
// The terms of every sum are added in the same order, so a row has the same bits in every batch, in
// every tile and on every thread.
#pragma once

#include <utility>

#include "lanes.h"
#include "operands.h"

namespace fastdiff::network {

/// A panel is this many vectors of columns of the weights (pack.h).
constexpr int kPanelVectors = 2;

/// The product for the lane type L. A tile is 1 to L::kRows rows times one panel.
template <class L>
struct Multiply {
  using F = typename L::F;
  static constexpr int kPanel = kPanelVectors * L::kLanes;

  template <int kRows>
  using Sums = F[kRows][kPanelVectors];

  /// sums[r][:] += sum over k of a[r][k] * weights[k * kPanel + :].
  ///
  /// With kAhead, the next panel is prefetched meanwhile. That helps where there are so few rows
  /// that weights are used faster than memory delivers them.
  template <int kRows, bool kAhead = false>
  static FASTDIFF_INLINE void accumulate(const float* const (&a)[kRows], const float* weights,
                                         int64_t depth, Sums<kRows>& sums) {
    const auto factor = [&](int row, int64_t k) { return a[row] + k; };
    accumulate<kAhead>(factor, weights, depth, sums, std::make_integer_sequence<int, kRows>());
  }

  /// The same, where element (r, k) of the rows is a[r * row + k * step].
  template <int kRows>
  static FASTDIFF_INLINE void accumulate(const float* a, int64_t row, int64_t step,
                                         const float* panel, int64_t depth, Sums<kRows>& sums) {
    const auto factor = [&](int r, int64_t k) { return a + r * row + k * step; };
    accumulate<false>(factor, panel, depth, sums, std::make_integer_sequence<int, kRows>());
  }

  /// Divides `rows` rows into tiles and calls tile(Size<kRows>, first row) for each.
  ///
  /// The tiles are as equal as they can be: a last tile of few rows would cost as much as a full
  /// one.
  template <class Tile>
  static FASTDIFF_INLINE void for_tiles(int64_t rows, const Tile& tile) {
    int64_t tiles = (rows + L::kRows - 1) / L::kRows;
    for (int64_t first = 0; tiles > 0; --tiles) {
      const int64_t size = (rows - first + tiles - 1) / tiles;
      call<L::kRows>(size, first, tile);
      first += size;
    }
  }

  /// A number of rows as a constant, of which the compiler can unroll loops.
  template <int kRows>
  struct Size {
    static constexpr int value = kRows;
  };

 private:
  static_assert(kPanelVectors == 2, "a row has two sums");

  /// The rows are unrolled by a pack expansion and not by a loop: with a loop, compilers keep some
  /// of the sums in memory instead of registers.
  template <bool kAhead, class Factor, int kRows, int... kRow>
  static FASTDIFF_INLINE void accumulate(const Factor& factor, const float* weights, int64_t depth,
                                         Sums<kRows>& sums, std::integer_sequence<int, kRow...>) {
    F left[kRows] = {sums[kRow][0]...}, right[kRows] = {sums[kRow][1]...};
    for (int64_t k = 0; k < depth; ++k, weights += kPanel) {
      if constexpr (kAhead) __builtin_prefetch(weights + depth * kPanel, 0, 2);
      const F w0 = L::load(weights), w1 = L::load(weights + L::kLanes);
      (add(L::broadcast(factor(kRow, k)), w0, w1, left[kRow], right[kRow]), ...);
    }
    ((sums[kRow][0] = left[kRow], sums[kRow][1] = right[kRow]), ...);
  }

  static FASTDIFF_INLINE void add(F x, F w0, F w1, F& left, F& right) {
    left = L::fma(x, w0, left);
    right = L::fma(x, w1, right);
  }

  template <int kRows, class Tile>
  static FASTDIFF_INLINE void call(int64_t size, int64_t first, const Tile& tile) {
    if (size == kRows) return tile(Size<kRows>{}, first);
    if constexpr (kRows > 1) call<kRows - 1>(size, first, tile);
  }
};

}  // namespace fastdiff::network
