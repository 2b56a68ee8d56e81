// Matrix products: some rows of activations times one packed panel of weights, sums in registers.
//
// Every sum runs over its terms in one order, so a row has the same bits in every batch, tile and
// thread.
#pragma once

#include "lanes.h"
#include "specs.h"

namespace fastdiff::network {

constexpr int kPanelVectors = 2;

template <class L>
struct Multiply {
  using F = typename L::F;
  static constexpr int kPanel = kPanelVectors * L::kLanes;

  template <int kRows>
  using Sums = F[kRows][kPanelVectors];

  /// sums[r][:] += sum over k of a[r][k] * weights[k * kPanel + :].
  ///
  /// With kAhead the next panel is asked for meanwhile: where there are few rows, weights come from
  /// memory more slowly than they are used.
  template <int kRows, bool kAhead = false>
  static FASTDIFF_INLINE void accumulate(const float* const (&a)[kRows], const float* weights,
                                         int64_t depth, Sums<kRows>& sums) {
    F local[kRows][kPanelVectors];  // in registers, whatever the caller does with its own
    FASTDIFF_UNROLL
    for (int r = 0; r < kRows; ++r) {
      FASTDIFF_UNROLL
      for (int v = 0; v < kPanelVectors; ++v) local[r][v] = sums[r][v];
    }
    for (int64_t k = 0; k < depth; ++k, weights += kPanel) {
      if constexpr (kAhead) __builtin_prefetch(weights + depth * kPanel, 0, 2);
      F w[kPanelVectors];
      FASTDIFF_UNROLL
      for (int v = 0; v < kPanelVectors; ++v) w[v] = L::load(weights + v * L::kLanes);
      FASTDIFF_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const F x = L::broadcast(a[r] + k);
        FASTDIFF_UNROLL
        for (int v = 0; v < kPanelVectors; ++v) local[r][v] = L::fma(x, w[v], local[r][v]);
      }
    }
    FASTDIFF_UNROLL
    for (int r = 0; r < kRows; ++r) {
      FASTDIFF_UNROLL
      for (int v = 0; v < kPanelVectors; ++v) sums[r][v] = local[r][v];
    }
  }

  /// Calls tile(std-like constant kRows, first row) for `rows` rows in tiles as equal as they can
  /// be: a last tile of few rows would cost as much as a whole one.
  template <class Tile>
  static FASTDIFF_INLINE void for_tiles(int64_t rows, const Tile& tile) {
    int64_t tiles = (rows + L::kRows - 1) / L::kRows;
    for (int64_t first = 0; tiles > 0; --tiles) {
      const int64_t size = (rows - first + tiles - 1) / tiles;
      call<L::kRows>(size, first, tile);
      first += size;
    }
  }

  template <int kRows>
  struct Size {
    static constexpr int value = kRows;
  };

 private:
  template <int kRows, class Tile>
  static FASTDIFF_INLINE void call(int64_t size, int64_t first, const Tile& tile) {
    if (size == kRows) return tile(Size<kRows>{}, first);
    if constexpr (kRows > 1) call<kRows - 1>(size, first, tile);
  }
};

}  // namespace fastdiff::network
