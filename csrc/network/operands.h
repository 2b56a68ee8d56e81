// What the kernels' arguments are made of: addresses, sizes and strides, no owner of memory.
//
// All strides count floats. A batch of images is `images` times the same work; an operand that all
// images share has an image stride of 0.
#pragma once

#include <cstdint>

#include "fastdiff/scalar.h"

namespace fastdiff::network {

FASTDIFF_INLINE int64_t divided_up(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

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

/// Element (image, head, token, channel) is at data[image * i + head * h + token * t + channel].
struct Heads {
  float* data;
  int64_t image, head, token;
};

}  // namespace fastdiff::network
