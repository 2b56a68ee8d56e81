// How the engine lays out what it makes for itself: panels of weights, the Winograd domain.
#pragma once

#include "fastdiff/scalar.h"
#include "specs.h"

namespace fastdiff::network {

FASTDIFF_INLINE int64_t panel_count(int64_t columns, int64_t panel) {
  return (columns + panel - 1) / panel;
}

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

/// The channels of a pixel of a convolution's input; zeros outside the image.
FASTDIFF_INLINE const float* input_pixel(const Conv& conv, int64_t image, int64_t y, int64_t x) {
  if (y < 0 || y >= conv.height || x < 0 || x >= conv.width) return conv.zeros;
  const int64_t width = conv.width >> conv.upsample;
  const int64_t at = (y >> conv.upsample) * width + (x >> conv.upsample);
  return conv.x.data + image * conv.x.image + at * conv.x.pixel;
}

}  // namespace fastdiff::network
