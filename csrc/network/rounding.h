// Pixels in bfloat16 or 8-bit integers, for tiles.
//
// A convolution rounds its input itself, or the node before it rounds what it computes, and float32
// never goes through memory.
#pragma once

#include "conv_spec.h"
#include "lanes.h"

namespace fastdiff::network {

/// A pixel of an image; row and column do not count the padding.
FASTDIFF_INLINE uint8_t* rounded_pixel(const Rounded& images, int64_t image, int64_t y, int64_t x) {
  const int64_t row = image * images.height + y + images.pad_top;
  return images.pixels + (row * images.width + x + images.pad_left) * pixel_bytes(images);
}

/// What is made of float32 when it is stored. A copy, since the compiler must take what is stored
/// for a change of anything that it has a pointer to.
struct Format {
  int64_t element = 4;  // bytes
  const float* factors = nullptr;
  float zero = 0;

  explicit FASTDIFF_INLINE Format(const Rounded* to) {
    if (to) element = to->element, factors = to->factors, zero = float(to->zero);
  }
};

/// Stores a vector of channels of a pixel, from `channel` on, of which `live` exist; the others are
/// zero in x, and what stands for that is stored.
template <class L>
FASTDIFF_INLINE void store_rounded(const Format& format, uint8_t* pixel, int64_t channel,
                                   typename L::F x, int64_t live = L::kLanes) {
  using F = typename L::F;
  if (format.element == 2) return L::store_bf16(reinterpret_cast<uint16_t*>(pixel) + channel, x);
  const float* from = format.factors + channel;
  const F factor = live >= L::kLanes ? L::load(from) : live > 0 ? L::load_part(from, live) : F{};
  L::store_u8(pixel + channel, x * factor + format.zero);
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
  FASTDIFF_INLINE void store(const Format& format, int64_t channel, typename L::F v,
                             int64_t live = L::kLanes) const {
    if (format.element < 4) {
      store_rounded<L>(format, rounded_, channel, v);
    } else {
      store_float<L>(channel, v, live);
    }
  }
  template <class L>
  FASTDIFF_INLINE void store_float(int64_t channel, typename L::F v, int64_t live) const {
    if (live >= L::kLanes) {
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
