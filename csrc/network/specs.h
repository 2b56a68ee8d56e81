// What each kernel of the network engine is told: addresses, sizes and strides, no owner of memory.
//
// All strides count floats. A batch of images is `images` times the same work; an operand that all
// images share has an image stride of 0.
#pragma once

#include <cstdint>

#include "operations.h"

namespace fastdiff::network {

/// Rows of channels: element (image, pixel, channel) is at data[image * i + pixel * p + channel].
/// Pixels are counted in rows of the image, so tokens are pixels too.
struct Pixels {
  float* data;
  int64_t image, pixel;
};

/// A vector per image: element (image, channel) is at data[image * i + channel].
struct PerImage {
  const float* data;
  int64_t image;
};

/// Images in bfloat16 or 8-bit integers, with the zeros that pad them: what tiles are read from.
///
///   q = round(x * factors + zero), from 0 to 255
struct Rounded {
  int64_t images, height, width;  // with the padding
  int64_t pad_top, pad_left, image_width;
  int64_t element, depth;  // bytes, and channels rounded up to whole tiles
  const float* factors;    // (channels,), of integers
  int32_t zero;            // what stands for 0
  uint8_t* pixels;         // where they are, while a plan runs
};

/// y = residual + scale * activation(sum + bias + shift); what is null is left out.
struct Epilogue {
  const float* bias;  // (out_channels,)
  PerImage shift, scale;
  Pixels residual;
  Activation activation;
};

/// A convolution over channels-last images, zero-padded; a linear layer is one of 1 x 1.
struct Conv {
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
  Conv conv;                  // its weights are not used
  const uint8_t* weights;     // packed, see pack.h
  Quantization quantization;  // of 8-bit integers
  const Rounded* input;
  bool gathers;        // rows of the image are shorter than a tile
  int64_t tile_block;  // row tiles of one unit
};

/// y = activation(normalised x * gamma + beta) over groups of channels of one image.
struct GroupNorm {
  Pixels x, y;
  int64_t images, pixels, channels, groups;
  const float *gamma, *beta;  // (channels,), or null
  float epsilon;
  Activation activation;
  const Rounded* rounded = nullptr;
};

/// y = (normalised x * gamma + beta) * (1 + scale) + shift over the channels of each pixel.
struct LayerNorm {
  Pixels x, y;
  int64_t images, pixels, channels;
  const float *gamma, *beta;  // (channels,), or null
  PerImage scale, shift;      // or null
  float epsilon;
  bool centred;  // false: root mean square only, nothing is subtracted
  const Rounded* rounded = nullptr;
};

/// Element (image, head, token, channel) is at data[image * i + head * h + token * t + channel].
struct Heads {
  float* data;
  int64_t image, head, token;
};

/// y = softmax(q k^T * scale) v for each head of each image.
struct Attention {
  Heads q, k, v, y;
  int64_t images, heads, queries, keys, depth, value_depth;
  float scale;
  const Rounded* rounded = nullptr;
  int64_t query_floats = 0;  // that a unit keeps of a query: it and its sums; see nodes.cpp
};

constexpr int kMapRank = 5;  // the image and up to four axes
constexpr int kMapInputs = 8;
constexpr int kMapSteps = 24;

/// One operation of a Map; operands below `inputs` are its inputs, the others results of steps.
struct MapStep {
  MapOp op;
  int32_t a, b;
  float constant;
};

/// y = a short program on x_0, x_1, ... element by element; without steps it copies x_0.
struct Map {
  int64_t shape[kMapRank];
  int32_t inputs, steps;
  const float* x[kMapInputs];
  int64_t x_strides[kMapInputs][kMapRank];
  float* y;
  int64_t y_strides[kMapRank];
  MapStep program[kMapSteps];
};

/// y[i, :] = table[labels[i], :], with the checked bounds of the table, which is in float32 or in
/// bfloat16.
struct Gather {
  const int64_t* labels;
  const void* table;
  bool halves;
  float* y;
  int64_t images, label_image, y_image;
  int64_t rows, channels;
};

/// Widens low[channel] and high[channel] to hold x at all pixels of all images.
struct Observe {
  Pixels x;
  int64_t images, pixels, channels;
  float *low, *high;
};

}  // namespace fastdiff::network
