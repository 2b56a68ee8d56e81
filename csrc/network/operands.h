// What the kernels' arguments are made of: addresses, sizes and strides. None of it owns memory.
//
// All strides count floats. An operand that all images of a batch share has an image stride of 0.
#pragma once

#include <cstdint>

#include "fastdiff/scalar.h"

namespace fastdiff::network {

/// count / size, rounded up.
FASTDIFF_INLINE int64_t divided_up(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

/// Images in channels-last order: channel c of pixel p of image i is data[image * i + pixel * p +
/// c]. Pixels are counted row by row, so a sequence of tokens is an image, too.
struct Pixels {
  float* data;
  int64_t image, pixel;
};

/// One vector for each image: channel c of image i is data[image * i + c].
struct PerImage {
  const float* data;
  int64_t image;
};

/// Images in bfloat16 or 8-bit integers with their padding, from which tiles are read. Integers are
///
///   q = round(x * factors + zero), clamped to 0 to 255.
struct Rounded {
  int64_t images, height, width;  // height and width include the padding
  int64_t pad_top, pad_left, image_width;
  int64_t element, depth;  // bytes of an element; channels rounded up to whole tiles
  const float* factors;    // (channels,), for integers
  int32_t zero;            // the zero point: the integer that stands for 0
  uint8_t* pixels;         // the memory, which is known once a plan has its scratch memory
};

/// Heads of attention: channel c of token t of head h of image i is
/// data[image * i + head * h + token * t + c].
struct Heads {
  float* data;
  int64_t image, head, token;
};

}  // namespace fastdiff::network
