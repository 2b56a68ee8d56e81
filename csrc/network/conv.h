// Convolutions and linear layers in float32 as implicit matrix products.
//
// The patches of the input are read where they lie and are not copied into a matrix. The exception
// are patches of at most 36 floats, as at the input of a network of images: copying those is
// cheaper than the loop over the taps.
#pragma once

#include "conv_spec.h"
#include "epilogue.h"
#include "multiply.h"

namespace fastdiff::network {

/// The kernel of the direct algorithm for the lane type L.
template <class L>
struct Convolve {
  using F = typename L::F;
  using M = Multiply<L>;

  /// Computes one unit: a block of rows, which are output pixels of all images in order, times a
  /// block of panels, which are groups of kPanel output channels.
  static void run(const Conv& conv, float*, int64_t unit) {
    const int64_t rows = conv.images * conv.out_height * conv.out_width;
    const int64_t panels = divided_up(conv.out_channels, M::kPanel);
    const int64_t panel_blocks = divided_up(panels, conv.panel_block);
    const int64_t row = unit / panel_blocks * conv.row_block;
    const int64_t panel = unit % panel_blocks * conv.panel_block;
    const int64_t row_count = min(conv.row_block, rows - row);
    const int64_t panel_end = min(panel + conv.panel_block, panels);
    Rows rows_of;
    rows_of.find(conv, row, row_count);
    for (int64_t p = panel; p < panel_end; ++p) {
      M::for_tiles(row_count, [&](auto size, int64_t first) {
        tile<decltype(size)::value>(conv, rows_of, first, p);
      });
    }
  }

 private:
  // The largest patch that is copied: 3 x 3 pixels, 4 channels.
  static constexpr int64_t kPatchFloats = 36;

  /// The rows of a unit: their output pixels, the upper left corner of the patch of each, and the
  /// patches themselves where each is contiguous, because it is one pixel or has been copied.
  struct Rows {
    OutputPixel pixels[kMostRows];
    int64_t tops[kMostRows], lefts[kMostRows];
    const float* patches[kMostRows];
    int64_t depth;  // the floats of a contiguous patch, or 0 if patches are read tap by tap
    float copies[kMostRows * kPatchFloats];

    void find(const Conv& conv, int64_t row, int64_t count) {
      const int64_t taps = conv.kernel_height * conv.kernel_width, floats = taps * conv.channels;
      depth = taps == 1 || floats <= kPatchFloats ? floats : 0;
      Position at = Position::of_row(conv, row);
      for (int64_t i = 0; i < count; ++i, at.next(conv)) {
        pixels[i] = OutputPixel(conv, at);
        tops[i] = at.y * conv.stride - conv.pad_top;
        lefts[i] = at.x * conv.stride - conv.pad_left;
        if (taps == 1) {
          patches[i] = input_pixel(conv, at.image, tops[i], lefts[i]);
        } else if (depth) {
          patches[i] = copies + i * depth;
          copy(conv, at.image, tops[i], lefts[i], copies + i * depth);
        }
      }
    }

   private:
    static FASTDIFF_INLINE void copy(const Conv& conv, int64_t image, int64_t top, int64_t left,
                                     float* to) {
      for (int y = 0; y < conv.kernel_height; ++y) {
        for (int x = 0; x < conv.kernel_width; ++x) {
          const float* from = input_pixel(conv, image, top + y, left + x);
          for (int64_t c = 0; c < conv.channels; ++c) *to++ = from[c];
        }
      }
    }
  };

  static FASTDIFF_INLINE int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

  template <int kRows>
  static void tile(const Conv& conv, const Rows& rows, int64_t first, int64_t panel) {
    const OutputPixel* pixels = rows.pixels + first;
    const int64_t *tops = rows.tops + first, *lefts = rows.lefts + first;
    const int taps = conv.kernel_height * conv.kernel_width;
    const int64_t tap_floats = conv.channels * M::kPanel;
    const float* weights = conv.weights + panel * taps * tap_floats;

    if (conv.epilogue.residual.data) {  // the residual is fetched while the products are computed
      FASTDIFF_UNROLL
      for (int r = 0; r < kRows; ++r) __builtin_prefetch(pixels[r].residual + panel * M::kPanel);
    }
    F sums[kRows][kPanelVectors] = {};
    const float* a[kRows];
    if (rows.depth) {
      FASTDIFF_UNROLL
      for (int r = 0; r < kRows; ++r) a[r] = rows.patches[first + r];
      M::template accumulate<kRows>(a, weights, rows.depth, sums);
      return finish_panel<kRows>(conv, pixels, panel, sums);
    }
    for (int y = 0; y < conv.kernel_height; ++y) {
      for (int x = 0; x < conv.kernel_width; ++x, weights += tap_floats) {
        bool any = false;
        FASTDIFF_UNROLL
        for (int r = 0; r < kRows; ++r) {
          a[r] = input_pixel(conv, pixels[r].image, tops[r] + y, lefts[r] + x);
          any |= a[r] != conv.zeros;
        }
        if (any) M::template accumulate<kRows>(a, weights, conv.channels, sums);
      }
    }
    finish_panel<kRows>(conv, pixels, panel, sums);
  }

  static constexpr int kPiece = 7;

  /// Applies the epilogue to the sums of a tile and stores them. A lane type with large tiles does
  /// so kPiece rows at a time: the epilogue is inlined for each number of rows, and inlining it for
  /// all sizes up to 14 rows would make megabytes of code.
  template <int kRows>
  static FASTDIFF_INLINE void finish_panel(const Conv& conv, const OutputPixel* pixels,
                                           int64_t panel, const F (&sums)[kRows][kPanelVectors]) {
    const int64_t column = panel * M::kPanel;
    const int64_t columns = min(M::kPanel, conv.out_channels - column);
    if constexpr (L::kRows <= kPiece) {
      finish<L, kRows>(conv, pixels, column, columns, sums);
    } else {
      finish_pieces<kRows>(conv, pixels, column, columns, sums);
    }
  }

  template <int kRows>
  static FASTDIFF_INLINE void finish_pieces(const Conv& conv, const OutputPixel* pixels,
                                            int64_t column, int64_t columns,
                                            const F (*sums)[kPanelVectors]) {
    constexpr int kCount = kRows < kPiece ? kRows : kPiece;
    finish_piece<kCount>(conv, pixels, column, columns, sums);
    if constexpr (kRows > kCount) {
      finish_pieces<kRows - kCount>(conv, pixels + kCount, column, columns, sums + kCount);
    }
  }

  template <int kRows>
  static __attribute__((noinline)) void finish_piece(const Conv& conv, const OutputPixel* pixels,
                                                     int64_t column, int64_t columns,
                                                     const F (*sums)[kPanelVectors]) {
    F piece[kRows][kPanelVectors];
    memcpy(piece, sums, sizeof piece);
    finish<L, kRows>(conv, pixels, column, columns, piece);
  }
};

template <class A>
struct KernelsOf<Conv, A> {
  static constexpr Stages<Conv> stages = {{Convolve<typename A::L>::run}};
};

}  // namespace fastdiff::network
