// How the engine lays out what it makes for itself: panels of weights, the Winograd domain.
#pragma once

#include "counts.h"
#include "fastdiff/scalar.h"
#include "specs.h"

namespace fastdiff::network {

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

/// A step of bfloat16 multiplies as many rows as columns as terms; bytes of its A, and of its B.
constexpr int64_t kTileSide = 32, kStepBytes = 2 * kTileBytes;

/// Steps that cover the keys of an attention, its depth and the channels of its values.
FASTDIFF_INLINE int64_t key_groups(const Attention& attention) {
  return divided_up(attention.keys, kTileSide);
}
FASTDIFF_INLINE int64_t depth_steps(const Attention& attention) {
  return divided_up(attention.depth, kTileSide);
}
FASTDIFF_INLINE int64_t value_steps(const Attention& attention) {
  return divided_up(attention.value_depth, kTileSide);
}
/// Bytes of 32 keys and their values, rounded.
FASTDIFF_INLINE int64_t group_bytes(const Attention& attention) {
  return (depth_steps(attention) + value_steps(attention)) * kStepBytes;
}
/// What a unit keeps of a query in tiles: it, in bfloat16, and its sums.
FASTDIFF_INLINE int64_t tile_query_floats(const Attention& attention) {
  return (depth_steps(attention) + 2 * value_steps(attention)) * kTileSide / 2;
}

/// The channels of a pixel of a convolution's input; zeros outside the image.
FASTDIFF_INLINE const float* input_pixel(const Conv& conv, int64_t image, int64_t y, int64_t x) {
  if (y < 0 || y >= conv.height || x < 0 || x >= conv.width) return conv.zeros;
  const int64_t width = conv.width >> conv.upsample;
  const int64_t at = (y >> conv.upsample) * width + (x >> conv.upsample);
  return conv.x.data + image * conv.x.image + at * conv.x.pixel;
}

}  // namespace fastdiff::network
