// The arguments of the convolution kernels, for each algorithm, and the layout of the memory that
// the algorithms make for themselves: the Winograd domain, the rounded input, and tiles.
#pragma once

#include "kind.h"
#include "operands.h"
#include "operations.h"

namespace fastdiff::network {

/// How a convolution is computed. Its weights must be packed for the algorithm (pack.h). Attention
/// takes kDirect and kTiles only.
enum class Algorithm { kDirect, kWinograd2, kWinograd4, kTiles, kInt8 };

/// The names of the algorithms, in the order of the enumerators.
constexpr const char* kAlgorithmNames[] = {"direct", "winograd2", "winograd4", "tiles", "int8"};

/// What is applied to each sum: y = residual + scale * activation(sum + bias + shift). A term whose
/// pointer is null is left out.
struct Epilogue {
  const float* bias;  // (out_channels,)
  PerImage shift, scale;
  Pixels residual;
  Activation activation;
};

/// A convolution of channels-last images with zero padding. A linear layer is a 1 x 1 convolution.
struct Conv {
  static constexpr int kStages = 1;

  Pixels x, y;
  int64_t images, height, width, channels;
  int64_t out_height, out_width, out_channels;
  int kernel_height, kernel_width, stride, pad_top, pad_left;
  // 1 if x is read as if it had been upsampled twofold by nearest neighbours. `height` and `width`
  // are then the sizes after upsampling. 0 otherwise.
  int upsample;
  const float* weights;  // packed, see pack.h
  const float* zeros;    // `channels` zeros, which are read for the padding
  Epilogue epilogue;
  int64_t row_block, panel_block;  // rows and panels of one unit
  const Rounded* rounded;          // if not null, y is rounded and stored there instead
  // This call computes one of `phases` x `phases` interleaved parts of y: the pixels at row
  // phases * i + phase_y and column phases * j + phase_x. `out_height` and `out_width` are the
  // sizes of the part. Its patches begin phase_y rows and phase_x columns further on in x.
  int phases = 1, phase_y = 0, phase_x = 0;
};

/// A convolution by Winograd's minimal filtering F(m x m, 3 x 3), for 3 x 3 kernels of stride 1.
struct Winograd {
  // Transform, multiply, transform back: for m = 2, then for m = 4.
  static constexpr int kStages = 6;

  Conv conv;
  int64_t tiles_down, tiles_across;
  int64_t first_tile, tile_count;  // the tiles of this call, counted in rows over all images
  int64_t product_columns;         // out_channels rounded up to whole panels
};

/// How the sums of 8-bit integers become float32:
///
///   conv(x) = (sum of q * weight - zeros) * outputs
struct Quantization {
  const float *inputs, *outputs;  // (channels,), the factors of Rounded; (out_channels,)
  const int32_t* zeros;           // (out_channels,): `zero` times the sum of a channel's weights
  int32_t zero;                   // the zero point: the integer that stands for 0
};

/// A convolution by tile products (tiles.h), of bfloat16 with float32 sums or of 8-bit integers
/// with 32-bit sums.
struct TileConv {
  // Round, pad, gather, multiply: for bfloat16, then for integers.
  static constexpr int kStages = 8;

  Conv conv;                  // its weights are not used
  const uint8_t* weights;     // packed, see pack.h
  Quantization quantization;  // for 8-bit integers
  const Rounded* input;
  bool gathers;        // whether tiles are gathered first, as image rows are no multiple of a tile
  int64_t tile_block;  // row tiles of one unit
};

constexpr int64_t kMostRows = 256;  // the most rows that a unit of a convolution may have

/// Rounds up to an odd number of cache lines, so that the same element of consecutive matrices
/// falls into different cache sets.
FASTDIFF_INLINE int64_t odd_lines(int64_t floats) { return ((floats + 15) / 16 | 1) * 16; }

/// The floats from one point of the Winograd domain to the next, and from one point of the products
/// to the next.
FASTDIFF_INLINE int64_t domain_stride(const Winograd& spec) {
  return odd_lines(spec.tile_count * spec.conv.channels);
}
FASTDIFF_INLINE int64_t product_stride(const Winograd& spec) {
  return odd_lines(spec.tile_count * spec.product_columns);
}
/// Where the products begin in the scratch memory: after the domain.
FASTDIFF_INLINE int64_t products_start(const Winograd& spec, int64_t points) {
  return points * domain_stride(spec);
}

// Tiles are those of AMX. A tile of A is 16 rows of 64 bytes, which are 32 bfloat16 or 64 8-bit
// numbers. A tile of B is 16 columns of as many numbers. B is interleaved: the 2 or 4 consecutive
// numbers of a column that are multiplied by 4 bytes of a row of A lie next to each other.
constexpr int64_t kTileRows = 16, kTileColumns = 16, kTileRowBytes = 64, kTilePanel = 32;
constexpr int64_t kTileBytes = kTileRows * kTileRowBytes;

/// How many terms, each at most 255 * 127, a 32-bit sum holds without overflow.
constexpr int64_t kMostInt8Terms = 66311;

/// How many terms of a sum one tile product adds, for numbers of `element` bytes.
FASTDIFF_INLINE int64_t tile_depth(int64_t element) { return kTileRowBytes / element; }

/// The fewest pixels of an input, before upsampling, for which phases pay (by_phases).
constexpr int64_t kLeastPhasePixels = 256;

/// Whether a tile convolution of an upsampled image reads x before upsampling, in 2 x 2 phases.
///
/// Each pixel of x becomes 2 x 2 pixels, so a 3 x 3 kernel covers only 2 x 2 different pixels of x.
/// Which ones depends on the parity of the output row and column, so there are four phases, each a
/// 2 x 2 convolution whose weights are sums of the taps that fall on the same pixel. That takes 4
/// of the 9 products. The four kernels have 16 / 9 times as many weights, which does not pay for
/// small images.
FASTDIFF_INLINE bool by_phases(const Conv& conv) {
  return conv.upsample && conv.height * conv.width >= 4 * kLeastPhasePixels && conv.stride == 1 &&
         conv.kernel_height == 3 && conv.kernel_width == 3 && conv.pad_top == 1 &&
         conv.pad_left == 1 && conv.out_height == conv.height && conv.out_width == conv.width;
}

FASTDIFF_INLINE int64_t row_count(const TileConv& spec) {
  return spec.conv.images * spec.conv.out_height * spec.conv.out_width;
}
/// The number of tiles of 16 output pixels. The pixels of a tile are neighbours in one row of an
/// image, unless tiles are gathered: then they are any 16 consecutive pixels.
FASTDIFF_INLINE int64_t row_tiles(const TileConv& spec) {
  if (spec.gathers) return divided_up(row_count(spec), kTileRows);
  return spec.conv.images * spec.conv.out_height * divided_up(spec.conv.out_width, kTileRows);
}
FASTDIFF_INLINE int64_t pixel_bytes(const Rounded& images) { return images.depth * images.element; }
/// The bytes of all images, and of the pixels behind the last one that an incomplete tile reads.
FASTDIFF_INLINE int64_t rounded_bytes(const Rounded& images, int64_t stride) {
  const int64_t pixels = images.images * images.height * images.width + kTileRows * stride;
  return divided_up(pixels * pixel_bytes(images), 64) * 64;
}
/// The number of tile products of a sum. Each takes 64 bytes of the channels of one tap; the taps
/// are the inner loop.
FASTDIFF_INLINE int64_t tile_steps(const TileConv& spec) {
  const Conv& conv = spec.conv;
  return pixel_bytes(*spec.input) / kTileRowBytes * conv.kernel_height * conv.kernel_width;
}
/// The bytes of the packed weights of one phase.
FASTDIFF_INLINE int64_t tile_weight_bytes(const TileConv& spec) {
  const int64_t panels = divided_up(spec.conv.out_channels, kTilePanel);
  return panels * tile_steps(spec) * 2 * kTileBytes;
}
FASTDIFF_INLINE int64_t gathered_floats(const TileConv& spec) {
  return spec.gathers ? row_tiles(spec) * tile_steps(spec) * kTileBytes / 4 : 0;
}

/// The address of the channels of an input pixel, or of zeros outside the image.
FASTDIFF_INLINE const float* input_pixel(const Conv& conv, int64_t image, int64_t y, int64_t x) {
  if (y < 0 || y >= conv.height || x < 0 || x >= conv.width) return conv.zeros;
  const int64_t width = conv.width >> conv.upsample;
  const int64_t at = (y >> conv.upsample) * width + (x >> conv.upsample);
  return conv.x.data + image * conv.x.image + at * conv.x.pixel;
}

}  // namespace fastdiff::network
