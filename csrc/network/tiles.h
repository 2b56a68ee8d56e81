// Convolutions of narrow numbers by products of tiles: bfloat16 with float32 sums, or 8-bit
// integers with exact 32-bit sums.
//
// The input is rounded once (rounding.h), into rows with their padding, from which a tile of 16
// neighbouring pixels is read where it lies: there is no patch matrix. Where image rows are shorter
// than a tile, tiles are gathered first. A policy T multiplies tiles: with AMX, with other
// instructions, or with plain arithmetic, which tests the rest of this text on any machine.
#pragma once

#include <type_traits>

#include "epilogue.h"
#include "rounding.h"
#include "tile_math.h"

namespace fastdiff::network {

template <class L, class T>
struct ConvolveTiles {
  using F = typename L::F;
  static constexpr bool kIntegers = std::is_same_v<typename T::Sum, int32_t>;

  /// A unit is a row of the input with its padding.
  static void round_input(const TileConv& spec, float*, int64_t unit) {
    const Conv& conv = spec.conv;
    const Rounded& input = *spec.input;
    const int64_t image = unit / input.height, row = unit % input.height;
    uint8_t* to = input.pixels + unit * input.width * pixel_bytes(input);
    for (int64_t x = 0; x < input.width; ++x, to += pixel_bytes(input)) {
      const float* from = input_pixel(conv, image, row - conv.pad_top, x - conv.pad_left);
      int64_t c = 0;
      for (; c + L::kLanes <= conv.channels; c += L::kLanes) {
        store_rounded<L>(input, to, c, L::load(from + c));
      }
      for (; c < input.depth; c += L::kLanes) {
        const int64_t rest = conv.channels - c;
        store_rounded<L>(input, to, c, rest > 0 ? L::load_part(from + c, rest) : F{}, rest);
      }
    }
  }

  /// Where the node before has rounded the pixels: their padding alone.
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

  /// A unit is a row tile: for each step over the depth, its 16 x 64 bytes together.
  static void gather(const TileConv& spec, float* scratch, int64_t unit) {
    uint8_t* to = gathered(scratch) + unit * tile_steps(spec) * kTileBytes;
    for (int64_t step = 0; step < tile_steps(spec); ++step) {
      for (int64_t r = 0; r < kTileRows; ++r, to += kTileRowBytes) {
        const int64_t row = unit * kTileRows + r;
        if (row < row_count(spec)) {
          memcpy(to, row_of_step(spec, row, step), kTileRowBytes);
        } else {
          memset(to, 0, kTileRowBytes);
        }
      }
    }
  }

  /// A unit is a block of row tiles by a block of panels.
  static void multiply(const TileConv& spec, float* scratch, int64_t unit) {
    const int64_t tile_count = row_tiles(spec),
                  panels = divided_up(spec.conv.out_channels, kTilePanel);
    const int64_t row_blocks = (tile_count + spec.tile_block - 1) / spec.tile_block;
    const int64_t first = unit % row_blocks * spec.tile_block;
    const int64_t last = min(first + spec.tile_block, tile_count);
    const int64_t panel = unit / row_blocks * spec.conv.panel_block;
    Rows rows[kMostRows / kTileRows];
    for (int64_t t = first; t < last; ++t) rows[t - first].find(spec, t);
    T tiles;
    for (int64_t p = panel; p < min(panel + spec.conv.panel_block, panels); ++p) {
      for (int64_t t = first; t < last; t += 2) {
        block(spec, scratch, tiles, t, min(last - t, 2), p, &rows[t - first]);
      }
    }
  }

 private:
  /// The output pixels of a row tile.
  struct Rows {
    OutputPixel pixels[kTileRows];
    int64_t count;

    void find(const TileConv& spec, int64_t tile) {
      const Conv& conv = spec.conv;
      const int64_t row = first_row(spec, tile);
      Position at = Position::of_row(conv, row);
      count = min(spec.gathers ? row_count(spec) - row : conv.out_width - at.x, kTileRows);
      for (int64_t r = 0; r < count; ++r, at.next(conv)) pixels[r] = OutputPixel(conv, at);
    }
  };

  static FASTDIFF_INLINE int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
  static FASTDIFF_INLINE uint8_t* gathered(float* scratch) {
    return reinterpret_cast<uint8_t*>(scratch);
  }

  /// The 64 bytes that a step reads for an output pixel.
  static FASTDIFF_INLINE const uint8_t* row_of_step(const TileConv& spec, int64_t row,
                                                    int64_t step) {
    const Conv& conv = spec.conv;
    const Rounded& input = *spec.input;
    const int64_t taps = conv.kernel_height * conv.kernel_width, tap = step % taps;
    const int64_t pixels = conv.out_height * conv.out_width, pixel = row % pixels;
    const int64_t y = pixel / conv.out_width * conv.stride + tap / conv.kernel_width;
    const int64_t x = pixel % conv.out_width * conv.stride + tap % conv.kernel_width;
    const int64_t at = (row / pixels * input.height + y) * input.width + x;
    return input.pixels + at * pixel_bytes(input) + step / taps * kTileRowBytes;
  }

  /// One or two row tiles, from `tile` on, by one panel.
  static void block(const TileConv& spec, float* scratch, T& tiles, int64_t tile, int64_t count,
                    int64_t panel, const Rows* rows) {
    const Conv& conv = spec.conv;
    const int64_t steps = tile_steps(spec);
    const int64_t pixel = pixel_bytes(*spec.input);
    const int64_t stride = spec.gathers ? kTileRowBytes : conv.stride * pixel;
    const uint8_t* from[2];  // what the first step reads; a tile without a neighbour is read twice
    for (int64_t i = 0; i < 2; ++i) {
      const int64_t t = tile + i % count;
      from[i] = spec.gathers ? gathered(scratch) + t * steps * kTileBytes
                             : row_of_step(spec, first_row(spec, t), 0);
    }
    const uint8_t* b = spec.weights + panel * steps * 2 * kTileBytes;
    int64_t step = 0;
    tiles.zero();
    for (int64_t c = 0; c < pixel; c += kTileRowBytes) {
      for (int64_t y = 0; y < conv.kernel_height; ++y) {
        for (int64_t x = 0; x < conv.kernel_width; ++x, ++step, b += 2 * kTileBytes) {
          const int64_t at =
              spec.gathers ? step * kTileBytes : (y * spec.input->width + x) * pixel + c;
          tiles.step(from[0] + at, from[1] + at, stride, b);
        }
      }
    }
    alignas(64) typename T::Sum sums[2][kTileRows][kTilePanel];
    tiles.store(sums);
    for (int64_t i = 0; i < count; ++i) {
      if constexpr (kIntegers) {
        alignas(64) float values[kTileRows][kTilePanel];
        scale(spec, panel, sums[i], values);
        finish_tile(spec, rows[i], panel, values);
      } else {
        finish_tile(spec, rows[i], panel, sums[i]);
      }
    }
  }

  static void scale(const TileConv& spec, int64_t panel,
                    const int32_t (&sums)[kTileRows][kTilePanel],
                    float (&values)[kTileRows][kTilePanel]) {
    const int64_t first = panel * kTilePanel;
    const int64_t live = min(spec.conv.out_channels - first, kTilePanel);
    int32_t zeros[kTilePanel] = {};
    float factors[kTilePanel] = {};
    memcpy(zeros, spec.quantization.zeros + first, size_t(live) * sizeof(int32_t));
    memcpy(factors, spec.quantization.outputs + first, size_t(live) * sizeof(float));
    for (int64_t r = 0; r < kTileRows; ++r) {
      for (int64_t c = 0; c < kTilePanel; ++c) {
        values[r][c] = float(sums[r][c] - zeros[c]) * factors[c];
      }
    }
  }

  static FASTDIFF_INLINE int64_t first_row(const TileConv& spec, int64_t tile) {
    if (spec.gathers) return tile * kTileRows;
    const int64_t across = (spec.conv.out_width + kTileRows - 1) / kTileRows;
    return tile / across * spec.conv.out_width + tile % across * kTileRows;
  }

  static void finish_tile(const TileConv& spec, const Rows& rows, int64_t panel,
                          const float (&sums)[kTileRows][kTilePanel]) {
    const Conv& conv = spec.conv;
    for (int64_t r = 0; r < rows.count; ++r) {
      for (int64_t c = 0; c < kTilePanel; c += kPanelVectors * L::kLanes) {
        const int64_t column = panel * kTilePanel + c;
        F values[1][kPanelVectors];
        for (int v = 0; v < kPanelVectors; ++v) values[0][v] = L::load(&sums[r][c + v * L::kLanes]);
        finish<L, 1>(conv, &rows.pixels[r], column,
                     min(conv.out_channels - column, kPanelVectors * L::kLanes), values);
      }
    }
  }
};

}  // namespace fastdiff::network
