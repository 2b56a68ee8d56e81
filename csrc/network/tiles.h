// Convolutions of narrow numbers by products of tiles: bfloat16 with float32 sums, or 8-bit
// integers with exact 32-bit sums.
//
// The input is rounded once, into rows with their padding, from which a tile of 16 neighbouring
// pixels is read where it lies: there is no patch matrix. Where image rows are shorter than a tile,
// tiles are gathered first. A policy T multiplies tiles: with AMX, with other instructions, or with
// plain arithmetic, which tests the rest of this text on any machine.
#pragma once

#include <type_traits>

#include "epilogue.h"
#include "layout.h"
#include "tile_math.h"

namespace fastdiff::network {

template <class L, class T>
struct ConvolveTiles {
  using F = typename L::F;
  static constexpr bool kIntegers = std::is_same_v<typename T::Sum, int32_t>;

  /// A unit is a row of the padded copy.
  static void round_input(const TileConv& spec, float* scratch, int64_t unit) {
    const Conv& conv = spec.conv;
    const int64_t image = unit / spec.padded_height, row = unit % spec.padded_height;
    uint8_t* to = copy(scratch) + unit * spec.padded_width * pixel_bytes(spec);
    for (int64_t x = 0; x < spec.padded_width; ++x, to += pixel_bytes(spec)) {
      const float* from = input_pixel(conv, image, row - conv.pad_top, x - conv.pad_left);
      int64_t c = 0;
      for (; c + L::kLanes <= conv.channels; c += L::kLanes) {
        round(spec, to, c, L::load(from + c), L::kLanes);
      }
      for (; c < spec.depth; c += L::kLanes) {
        const int64_t rest = conv.channels - c;
        round(spec, to, c, rest > 0 ? L::load_part(from + c, rest) : F{}, rest);
      }
    }
  }

  /// A unit is a row tile: for each step over the depth, its 16 x 64 bytes together.
  static void gather(const TileConv& spec, float* scratch, int64_t unit) {
    uint8_t* to = gathered(spec, scratch) + unit * tile_steps(spec) * kTileBytes;
    for (int64_t step = 0; step < tile_steps(spec); ++step) {
      for (int64_t r = 0; r < kTileRows; ++r, to += kTileRowBytes) {
        const int64_t row = unit * kTileRows + r;
        if (row < row_count(spec)) {
          memcpy(to, row_of_step(spec, scratch, row, step), kTileRowBytes);
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
    T tiles;
    for (int64_t p = panel; p < min(panel + spec.conv.panel_block, panels); ++p) {
      for (int64_t t = first; t < last; t += 2) block(spec, scratch, tiles, t, last, p);
    }
  }

 private:
  static FASTDIFF_INLINE int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
  static FASTDIFF_INLINE uint8_t* copy(float* scratch) {
    return reinterpret_cast<uint8_t*>(scratch);
  }
  static FASTDIFF_INLINE uint8_t* gathered(const TileConv& spec, float* scratch) {
    return reinterpret_cast<uint8_t*>(scratch + rounded_floats(spec));
  }

  /// Stores a vector of channels of a pixel, from `channel` on, of which `live` exist.
  static FASTDIFF_INLINE void round(const TileConv& spec, uint8_t* pixel, int64_t channel, F x,
                                    int64_t live) {
    if constexpr (kIntegers) {
      const float* from = spec.quantization.inputs + channel;
      const F factor = live >= L::kLanes ? L::load(from)
                       : live > 0        ? L::load_part(from, live)
                                         : F{};
      L::store_u8(pixel + channel, x * factor + float(spec.quantization.zero));
    } else {
      L::store_bf16(reinterpret_cast<uint16_t*>(pixel) + channel, x);
    }
  }

  /// The 64 bytes that a step reads for an output pixel, in the padded copy.
  static FASTDIFF_INLINE const uint8_t* row_of_step(const TileConv& spec, float* scratch,
                                                    int64_t row, int64_t step) {
    const Conv& conv = spec.conv;
    const int64_t taps = conv.kernel_height * conv.kernel_width, tap = step % taps;
    const int64_t pixels = conv.out_height * conv.out_width, pixel = row % pixels;
    const int64_t y = pixel / conv.out_width * conv.stride + tap / conv.kernel_width;
    const int64_t x = pixel % conv.out_width * conv.stride + tap % conv.kernel_width;
    const int64_t at = (row / pixels * spec.padded_height + y) * spec.padded_width + x;
    return copy(scratch) + at * pixel_bytes(spec) + step / taps * kTileRowBytes;
  }

  /// Row tiles `tile` and, before `last`, the next one, by one panel.
  static void block(const TileConv& spec, float* scratch, T& tiles, int64_t tile, int64_t last,
                    int64_t panel) {
    const Conv& conv = spec.conv;
    const int64_t steps = tile_steps(spec), count = tile + 1 < last ? 2 : 1;
    const int64_t stride = spec.gathers ? kTileRowBytes : conv.stride * pixel_bytes(spec);
    const uint8_t* from[2];  // what the first step reads; a tile without a neighbour is read twice
    for (int64_t i = 0; i < 2; ++i) {
      const int64_t t = tile + i % count;
      from[i] = spec.gathers ? gathered(spec, scratch) + t * steps * kTileBytes
                             : row_of_step(spec, scratch, first_row(spec, t), 0);
    }
    const uint8_t* b = spec.weights + panel * steps * 2 * kTileBytes;
    int64_t step = 0;
    tiles.zero();
    for (int64_t c = 0; c < pixel_bytes(spec); c += kTileRowBytes) {
      for (int64_t y = 0; y < conv.kernel_height; ++y) {
        for (int64_t x = 0; x < conv.kernel_width; ++x, ++step, b += 2 * kTileBytes) {
          const int64_t at = spec.gathers ? step * kTileBytes
                                          : (y * spec.padded_width + x) * pixel_bytes(spec) + c;
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
        finish_tile(spec, tile + i, panel, values);
      } else {
        finish_tile(spec, tile + i, panel, sums[i]);
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

  static void finish_tile(const TileConv& spec, int64_t tile, int64_t panel,
                          const float (&sums)[kTileRows][kTilePanel]) {
    const Conv& conv = spec.conv;
    const int64_t pixels = conv.out_height * conv.out_width, row = first_row(spec, tile);
    const int64_t rows =
        spec.gathers ? row_count(spec) - row : conv.out_width - row % conv.out_width;
    for (int64_t r = 0; r < min(rows, kTileRows); ++r) {
      const OutputPixel pixel(conv, (row + r) / pixels, (row + r) % pixels);
      for (int64_t c = 0; c < kTilePanel; c += kPanelVectors * L::kLanes) {
        const int64_t column = panel * kTilePanel + c;
        F values[1][kPanelVectors];
        for (int v = 0; v < kPanelVectors; ++v) values[0][v] = L::load(&sums[r][c + v * L::kLanes]);
        finish<L, 1>(conv, &pixel, column,
                     min(conv.out_channels - column, kPanelVectors * L::kLanes), values);
      }
    }
  }
};

}  // namespace fastdiff::network
