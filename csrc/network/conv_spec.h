// Convolutions: what their kernels are told, whichever algorithm computes them, and how the backend
// lays out what it makes for itself: panels of weights, the Winograd domain, tiles.
#pragma once

#include "kind.h"
#include "operands.h"
#include "operations.h"

namespace fastdiff::network {

/// How a convolution is computed; its weights are packed for that. Attention is kDirect or kTiles.
enum class Algorithm { kDirect, kWinograd2, kWinograd4, kTiles, kInt8 };

/// By their enumerators.
constexpr const char* kAlgorithmNames[] = {"direct", "winograd2", "winograd4", "tiles", "int8"};

/// y = residual + scale * activation(sum + bias + shift); what is null is left out.
struct Epilogue {
  const float* bias;  // (out_channels,)
  PerImage shift, scale;
  Pixels residual;
  Activation activation;
};

/// A convolution over channels-last images, zero-padded; a linear layer is one of 1 x 1.
struct Conv {
  static constexpr int kStages = 1;

  Pixels x, y;
  int64_t images, height, width, channels;
  int64_t out_height, out_width, out_channels;
  int kernel_height, kernel_width, stride, pad_top, pad_left;
  int upsample;          // 1: reads x doubled by nearest neighbours; height and width are doubled
  const float* weights;  // packed, see pack.h
  const float* zeros;    // `channels` of them
  Epilogue epilogue;
  int64_t row_block, panel_block;  // rows and panels of one unit
  const Rounded* rounded;          // if not null, where y goes instead; so below
  // Of `phases` x `phases` parts of y, this one: pixels phases * (row, column) + phase. The output
  // sizes above are the part's, and its first pixel reads x that many pixels further on.
  int phases = 1, phase_y = 0, phase_x = 0;
};

/// The same by Winograd's minimal filtering F(m x m, 3 x 3): stride 1, kernel 3 x 3.
struct Winograd {
  static constexpr int kStages = 6;  // to the domain, products, back: of F(2 x 2), of F(4 x 4)

  Conv conv;
  int64_t tiles_down, tiles_across;
  int64_t first_tile, tile_count;  // of those of all images, in rows
  int64_t product_columns;         // out_channels rounded up to whole panels
};

/// What makes float32 of the sums of 8-bit integers: conv(x) = (sum of q * weight - zeros) *
/// outputs
struct Quantization {
  const float *inputs, *outputs;  // (channels,), the factors of Rounded, and (out_channels,)
  const int32_t* zeros;           // (out_channels,): `zero` times the sum of its weights
  int32_t zero;
};

/// The same by tiles of narrow numbers, see tiles.h: bfloat16 with float32 sums, or 8-bit integers.
struct TileConv {
  static constexpr int kStages = 8;  // round, pad, gather, multiply: bfloat16, then integers

  Conv conv;                  // its weights are not used
  const uint8_t* weights;     // packed, see pack.h
  Quantization quantization;  // of 8-bit integers
  const Rounded* input;
  bool gathers;        // rows of the image are shorter than a tile
  int64_t tile_block;  // row tiles of one unit
};

constexpr int64_t kMostRows = 256;  // of a unit of a convolution

/// An odd number of cache lines, so that matrices one behind the other do not share cache sets.
FASTDIFF_INLINE int64_t odd_lines(int64_t floats) { return ((floats + 15) / 16 | 1) * 16; }

/// Floats from a point of the Winograd domain to the next, and from its products to the next.
FASTDIFF_INLINE int64_t domain_stride(const Winograd& spec) {
  return odd_lines(spec.tile_count * spec.conv.channels);
}
FASTDIFF_INLINE int64_t product_stride(const Winograd& spec) {
  return odd_lines(spec.tile_count * spec.product_columns);
}
/// Where the products begin in the scratch memory, behind the domain.
FASTDIFF_INLINE int64_t products_start(const Winograd& spec, int64_t points) {
  return points * domain_stride(spec);
}

// A tile of A is 16 rows of 64 bytes, one of B 16 columns of as many products: 32 of bfloat16, 64
// of 8 bits. In B, the elements of a column that share 4 bytes of a row of A lie together.
constexpr int64_t kTileRows = 16, kTileColumns = 16, kTileRowBytes = 64, kTilePanel = 32;
constexpr int64_t kTileBytes = kTileRows * kTileRowBytes;

/// Terms of 255 * 127 at most that a 32-bit sum holds.
constexpr int64_t kMostInt8Terms = 66311;

/// Products of a sum that one step over the depth makes.
FASTDIFF_INLINE int64_t tile_depth(int64_t element) { return kTileRowBytes / element; }

constexpr int64_t kLeastPhasePixels = 256;

/// Whether a convolution of tiles reads x as it is, not doubled. Each pixel of x is four of y,
/// whose kernels of 3 x 3 then fall on 2 x 2 pixels: taps on the same one are added up (pack them
/// so), and the four are phases, with 4 of the 9 products. Their weights are 16 ninths as many, so
/// small images are left as they are.
FASTDIFF_INLINE bool by_phases(const Conv& conv) {
  return conv.upsample && conv.height * conv.width >= 4 * kLeastPhasePixels && conv.stride == 1 &&
         conv.kernel_height == 3 && conv.kernel_width == 3 && conv.pad_top == 1 &&
         conv.pad_left == 1 && conv.out_height == conv.height && conv.out_width == conv.width;
}

FASTDIFF_INLINE int64_t row_count(const TileConv& spec) {
  return spec.conv.images * spec.conv.out_height * spec.conv.out_width;
}
/// Tiles of 16 output pixels: neighbours in a row of the image, or, if they are gathered, any.
FASTDIFF_INLINE int64_t row_tiles(const TileConv& spec) {
  if (spec.gathers) return divided_up(row_count(spec), kTileRows);
  return spec.conv.images * spec.conv.out_height * divided_up(spec.conv.out_width, kTileRows);
}
FASTDIFF_INLINE int64_t pixel_bytes(const Rounded& images) { return images.depth * images.element; }
/// Bytes of all images, with room behind them for a last tile that is not whole.
FASTDIFF_INLINE int64_t rounded_bytes(const Rounded& images, int64_t stride) {
  const int64_t pixels = images.images * images.height * images.width + kTileRows * stride;
  return divided_up(pixels * pixel_bytes(images), 64) * 64;
}
/// Tile products of a sum, 64 bytes of a tap each: taps are the inner loop.
FASTDIFF_INLINE int64_t tile_steps(const TileConv& spec) {
  const Conv& conv = spec.conv;
  return pixel_bytes(*spec.input) / kTileRowBytes * conv.kernel_height * conv.kernel_width;
}
/// Of a phase.
FASTDIFF_INLINE int64_t tile_weight_bytes(const TileConv& spec) {
  const int64_t panels = divided_up(spec.conv.out_channels, kTilePanel);
  return panels * tile_steps(spec) * 2 * kTileBytes;
}
FASTDIFF_INLINE int64_t gathered_floats(const TileConv& spec) {
  return spec.gathers ? row_tiles(spec) * tile_steps(spec) * kTileBytes / 4 : 0;
}

/// The channels of a pixel of a convolution's input; zeros outside the image.
FASTDIFF_INLINE const float* input_pixel(const Conv& conv, int64_t image, int64_t y, int64_t x) {
  if (y < 0 || y >= conv.height || x < 0 || x >= conv.width) return conv.zeros;
  const int64_t width = conv.width >> conv.upsample;
  const int64_t at = (y >> conv.upsample) * width + (x >> conv.upsample);
  return conv.x.data + image * conv.x.image + at * conv.x.pixel;
}

}  // namespace fastdiff::network
