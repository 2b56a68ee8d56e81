// Convolutions by products of tiles: of bfloat16 with float32 sums, or of 8-bit integers with exact
// 32-bit sums.
//
// The input is rounded once (rounding.h) into rows with padding. A tile of 16 neighbouring pixels
// is read from there directly, without a patch matrix. Where the length of image rows is no
// multiple of 16, tiles are gathered first. The template parameter T multiplies tiles
// (tile_math.h): with AMX, with other instructions, or in plain arithmetic, with which this file
// can be tested on any CPU.
#pragma once

#include <type_traits>

#include "conv_spec.h"
#include "epilogue.h"
#include "rounding.h"
#include "tile_math.h"

namespace fastdiff::network {

/// The kernels of tile convolution for the lane type L; T multiplies tiles.
template <class L, class T>
struct ConvolveTiles {
  using F = typename L::F;
  using Sum = typename T::Sum;
  static constexpr bool kIntegers = std::is_same_v<Sum, int32_t>;

  /// Rounds the input. One unit is one row of it with its padding.
  static void round_input(const TileConv& spec, float*, int64_t unit) {
    const Conv& conv = spec.conv;
    const Rounded& input = *spec.input;
    const int64_t image = unit / input.height, row = unit % input.height;
    const Format format(&input);
    uint8_t* to = input.pixels + unit * input.width * pixel_bytes(input);
    for (int64_t x = 0; x < input.width; ++x, to += pixel_bytes(input)) {
      const float* from = input_pixel(conv, image, row - conv.pad_top, x - conv.pad_left);
      int64_t c = 0;
      for (; c + L::kLanes <= conv.channels; c += L::kLanes) {
        store_rounded<L>(format, to, c, L::load(from + c));
      }
      for (; c < input.depth; c += L::kLanes) {
        const int64_t rest = conv.channels - c;
        store_rounded<L>(format, to, c, rest > 0 ? L::load_part(from + c, rest) : F{}, rest);
      }
    }
  }

  /// Writes the padding of one row of the input, whose pixels the previous node has rounded.
  static void pad_input(const TileConv& spec, float*, int64_t unit) {
    const Conv& conv = spec.conv;
    const Rounded& input = *spec.input;
    const int64_t y = unit % input.height - conv.pad_top, pixel = pixel_bytes(input);
    uint8_t* row = input.pixels + unit * input.width * pixel;
    const int value = kIntegers ? input.zero : 0;
    const bool outside = y < 0 || y >= conv.height;
    const int64_t left = outside ? input.width : conv.pad_left, end = conv.pad_left + conv.width;
    memset(row, value, size_t(left * pixel));
    if (!outside) memset(row + end * pixel, value, size_t((input.width - end) * pixel));
  }

  /// Gathers one row tile, which is one unit: for each step over the depth, its 16 x 64 bytes are
  /// made contiguous.
  static void gather(const TileConv& spec, float* scratch, int64_t unit) {
    const uint8_t* from[kTileRows] = {};
    const int64_t first = unit * kTileRows, rows = row_count(spec) - first;
    Position at = Position::of_row(spec.conv, first);
    for (int64_t r = 0; r < min(rows, kTileRows); ++r, at.next(spec.conv)) {
      from[r] = first_step(spec, at);
    }
    uint8_t* to = gathered(scratch) + unit * tile_steps(spec) * kTileBytes;
    for_steps(spec, [&](int64_t offset) {
      for (int64_t r = 0; r < kTileRows; ++r, to += kTileRowBytes) {
        if (from[r]) {
          memcpy(to, from[r] + offset, kTileRowBytes);
        } else {
          memset(to, 0, kTileRowBytes);
        }
      }
    });
  }

  /// Computes one unit: a block of row tiles times a block of panels.
  static void multiply(const TileConv& spec, float* scratch, int64_t unit) {
    const int64_t panels = divided_up(spec.conv.out_channels, kTilePanel);
    const int64_t panel_blocks = divided_up(panels, spec.conv.panel_block);
    const int64_t first = unit / panel_blocks * spec.tile_block;
    const int64_t count = min(spec.tile_block, row_tiles(spec) - first);
    const int64_t panel = unit % panel_blocks * spec.conv.panel_block;
    Rows rows[kMostRows / kTileRows];
    for (int64_t i = 0; i < count; ++i) rows[i].find(spec, scratch, first + i);
    T tiles;
    for (int64_t p = panel; p < min(panel + spec.conv.panel_block, panels); ++p) {
      for (int64_t i = 0; i < count; i += 2) block(spec, tiles, &rows[i], min(count - i, 2), p);
    }
  }

 private:
  /// A row tile: its output pixels, how many there are, and the address that its first step reads.
  struct Rows {
    OutputPixel pixels[kTileRows];
    int64_t count;
    const uint8_t* from;

    void find(const TileConv& spec, float* scratch, int64_t tile) {
      const Conv& conv = spec.conv;
      const int64_t row = first_row(spec, tile);
      Position at = Position::of_row(conv, row);
      from = spec.gathers ? gathered(scratch) + tile * tile_steps(spec) * kTileBytes
                          : first_step(spec, at);
      count = min(spec.gathers ? row_count(spec) - row : conv.out_width - at.x, kTileRows);
      for (int64_t r = 0; r < count; ++r, at.next(conv)) pixels[r] = OutputPixel(conv, at);
    }
  };

  static FASTDIFF_INLINE int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
  static FASTDIFF_INLINE uint8_t* gathered(float* scratch) {
    return reinterpret_cast<uint8_t*>(scratch);
  }

  /// The address of the 64 bytes that the first step reads for an output pixel.
  static FASTDIFF_INLINE const uint8_t* first_step(const TileConv& spec, const Position& at) {
    const Rounded& input = *spec.input;
    const Conv& conv = spec.conv;
    const int64_t row = at.image * input.height + at.y * conv.stride + conv.phase_y;
    const int64_t column = at.x * conv.stride + conv.phase_x;
    return input.pixels + (row * input.width + column) * pixel_bytes(input);
  }

  /// Calls use(offset) for each step. `offset` is the distance in bytes from what the first step
  /// reads to what this step reads.
  template <class Use>
  static FASTDIFF_INLINE void for_steps(const TileConv& spec, const Use& use) {
    const Conv& conv = spec.conv;
    const int64_t pixel = pixel_bytes(*spec.input), row = spec.input->width * pixel;
    for (int64_t c = 0; c < pixel; c += kTileRowBytes) {
      for (int64_t y = 0; y < conv.kernel_height; ++y) {
        for (int64_t x = 0; x < conv.kernel_width; ++x) use(y * row + x * pixel + c);
      }
    }
  }

  /// Multiplies one or two row tiles by one panel. If there is only one, it is used twice and the
  /// second result is ignored.
  static void block(const TileConv& spec, T& tiles, const Rows* rows, int64_t count,
                    int64_t panel) {
    const int64_t steps = tile_steps(spec);
    const uint8_t* from[2] = {rows[0].from, rows[count - 1].from};
    const uint8_t* b = spec.weights + panel * steps * 2 * kTileBytes;
    tiles.zero();
    if (spec.gathers) {
      for (int64_t i = 0; i < steps; ++i, b += 2 * kTileBytes) {
        tiles.step(from[0] + i * kTileBytes, from[1] + i * kTileBytes, kTileRowBytes, b);
      }
    } else {
      const int64_t stride = spec.conv.stride * pixel_bytes(*spec.input);
      for_steps(spec, [&](int64_t offset) {
        tiles.step(from[0] + offset, from[1] + offset, stride, b);
        b += 2 * kTileBytes;
      });
    }
    alignas(64) Sum sums[2][kTileRows][kTilePanel];
    tiles.store(sums);
    for (int64_t i = 0; i < count; ++i) finish_tile(spec, rows[i], panel, sums[i]);
  }

  /// The number of a tile's first output pixel, counted over all images.
  static FASTDIFF_INLINE int64_t first_row(const TileConv& spec, int64_t tile) {
    if (spec.gathers) return tile * kTileRows;
    const int64_t across = divided_up(spec.conv.out_width, kTileRows);
    return tile / across * spec.conv.out_width + tile % across * kTileRows;
  }

  static void finish_tile(const TileConv& spec, const Rows& rows, int64_t panel,
                          const Sum (&sums)[kTileRows][kTilePanel]) {
    constexpr int64_t kColumns = kPanelVectors * L::kLanes;
    for (int64_t c = 0; c < kTilePanel; c += kColumns) {
      const int64_t column = panel * kTilePanel + c, rest = spec.conv.out_channels - column;
      if (rest <= 0) return;
      const Columns columns(spec, column, min(rest, kColumns));
      int64_t r = 0;
      for (; r + kTogether <= rows.count; r += kTogether) {
        columns.template finish_rows<kTogether>(&rows.pixels[r], &sums[r][c]);
      }
      for (; r < rows.count; ++r) columns.template finish_rows<1>(&rows.pixels[r], &sums[r][c]);
    }
  }

  // Rows that are finished together, to hide the latency of instructions.
  static constexpr int kTogether = 4;

  /// Two vectors of output channels, with the factors that turn their sums into float32.
  class Columns {
   public:
    FASTDIFF_INLINE Columns(const TileConv& spec, int64_t first, int64_t live)
        : conv_(spec.conv), first_(first), live_(live) {
      if constexpr (kIntegers) {
        memcpy(zeros_, spec.quantization.zeros + first, size_t(live) * sizeof(int32_t));
        memcpy(factors_, spec.quantization.outputs + first, size_t(live) * sizeof(float));
      }
    }

    template <int kRows>
    FASTDIFF_INLINE void finish_rows(const OutputPixel* pixels, const Sum* sums) const {
      F values[kRows][kPanelVectors];
      FASTDIFF_UNROLL
      for (int r = 0; r < kRows; ++r) {
        FASTDIFF_UNROLL
        for (int v = 0; v < kPanelVectors; ++v) {
          values[r][v] = value(sums + r * kTilePanel + v * L::kLanes, v);
        }
      }
      finish<Short<L>, kRows>(conv_, pixels, first_, live_, values);
    }

   private:
    FASTDIFF_INLINE F value(const Sum* sums, int v) const {
      if constexpr (kIntegers) {
        typename L::I whole;
        memcpy(&whole, sums, sizeof whole);
        return __builtin_convertvector(whole - zeros_[v], F) * factors_[v];
      } else {
        return L::load(sums);
      }
    }

    const Conv& conv_;
    const int64_t first_, live_;
    typename L::I zeros_[kPanelVectors] = {};
    F factors_[kPanelVectors] = {};
  };
};

template <class A>
struct KernelsOf<TileConv, A> {
  using Tiles = ConvolveTiles<typename A::L, typename A::T>;
  using Integers = ConvolveTiles<typename A::L, typename A::I>;
  static constexpr Stages<TileConv> stages = {
      {Tiles::round_input, Tiles::pad_input, Tiles::gather, Tiles::multiply, Integers::round_input,
       Integers::pad_input, Integers::gather, Integers::multiply}};
};

}  // namespace fastdiff::network
