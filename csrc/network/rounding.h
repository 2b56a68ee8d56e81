// Pixels in bfloat16 or 8-bit integers, for tiles.
//
// A convolution rounds its input itself, or the node before it rounds what it computes, and float32
// never goes through memory.
#pragma once

#include "lanes.h"
#include "layout.h"

namespace fastdiff::network {

/// A pixel of an image; row and column do not count the padding.
FASTDIFF_INLINE uint8_t* rounded_pixel(const Rounded& images, int64_t image, int64_t y, int64_t x) {
  const int64_t row = image * images.height + y + images.pad_top;
  return images.pixels + (row * images.width + x + images.pad_left) * pixel_bytes(images);
}

/// Stores a vector of channels of a pixel, from `channel` on, of which `live` exist; the others are
/// zero in x, and what stands for that is stored.
template <class L>
FASTDIFF_INLINE void store_rounded(const Rounded& images, uint8_t* pixel, int64_t channel,
                                   typename L::F x, int64_t live = L::kLanes) {
  using F = typename L::F;
  if (images.element == 1) {
    const float* from = images.factors + channel;
    const F factor = live >= L::kLanes ? L::load(from) : live > 0 ? L::load_part(from, live) : F{};
    L::store_u8(pixel + channel, x * factor + float(images.zero));
  } else {
    L::store_bf16(reinterpret_cast<uint16_t*>(pixel) + channel, x);
  }
}

/// Where the channels of a pixel go: to y, or, rounded, to what the next node reads.
class Output {
 public:
  Output() = default;
  explicit FASTDIFF_INLINE Output(float* y) : y_(y) {}
  explicit FASTDIFF_INLINE Output(uint8_t* rounded) : rounded_(rounded) {}
  /// Pixels are counted in rows of the image.
  FASTDIFF_INLINE Output(const Pixels& y, const Rounded* to, int64_t image, int64_t pixel) {
    if (to) {
      rounded_ = rounded_pixel(*to, image, pixel / to->image_width, pixel % to->image_width);
    } else {
      y_ = y.data + image * y.image + pixel * y.pixel;
    }
  }

  /// Channels that are rounded come in whole vectors.
  template <class L>
  FASTDIFF_INLINE void store(const Rounded* to, int64_t channel, typename L::F v,
                             int64_t live = L::kLanes) const {
    if (to) {
      store_rounded<L>(*to, rounded_, channel, v);
    } else if (live >= L::kLanes) {
      L::store(y_ + channel, v);
    } else {
      L::store_part(y_ + channel, v, live);
    }
  }

 private:
  union {
    float* y_;
    uint8_t* rounded_;
  };
};

}  // namespace fastdiff::network
