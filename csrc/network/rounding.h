// Storing pixels in bfloat16 or 8-bit integers, which tile products read.
//
// Either a convolution rounds its input itself, or the previous node rounds its output, so that it
// is never written as float32.
#pragma once

#include "conv_spec.h"
#include "lanes.h"

namespace fastdiff::network {

/// The address of a pixel. Row y and column x are those of the image without its padding.
FASTDIFF_INLINE uint8_t* rounded_pixel(const Rounded& images, int64_t image, int64_t y, int64_t x) {
  const int64_t row = image * images.height + y + images.pad_top;
  return images.pixels + (row * images.width + x + images.pad_left) * pixel_bytes(images);
}

/// The format in which float32 values are stored: float32, bfloat16 or 8-bit integers.
///
/// It is a copy of fields of Rounded. Through a pointer to Rounded, the compiler would load the
/// fields again after every store, since a store of bytes may change any memory.
struct Format {
  int64_t element = 4;  // bytes of an element: 4, 2 or 1
  const float* factors = nullptr;
  float zero = 0;

  explicit FASTDIFF_INLINE Format(const Rounded* to) {
    if (to) element = to->element, factors = to->factors, zero = float(to->zero);
  }
};

/// Rounds and stores one vector of channels of a pixel, from `channel` on. Only `live` of them
/// exist; the others must be zero in x and are stored as the rounded zero.
template <class L>
FASTDIFF_INLINE void store_rounded(const Format& format, uint8_t* pixel, int64_t channel,
                                   typename L::F x, int64_t live = L::kLanes) {
  using F = typename L::F;
  if (format.element == 2) return L::store_bf16(reinterpret_cast<uint16_t*>(pixel) + channel, x);
  const float* from = format.factors + channel;
  const F factor = live >= L::kLanes ? L::load(from) : live > 0 ? L::load_part(from, live) : F{};
  L::store_u8(pixel + channel, x * factor + format.zero);
}

/// Where the channels of a pixel are stored: as float32 in y, or rounded where the next node reads.
class Output {
 public:
  Output() = default;
  explicit FASTDIFF_INLINE Output(float* y) : y_(y) {}
  explicit FASTDIFF_INLINE Output(uint8_t* rounded) : rounded_(rounded) {}
  /// The pixel number `pixel`, counted row by row, of an image: in `to` if that is not null.
  FASTDIFF_INLINE Output(const Pixels& y, const Rounded* to, int64_t image, int64_t pixel) {
    if (to) {
      rounded_ = rounded_pixel(*to, image, pixel / to->image_width, pixel % to->image_width);
    } else {
      y_ = y.data + image * y.image + pixel * y.pixel;
    }
  }

  /// Stores `live` channels from `channel` on. If they are rounded, they must be a whole vector.
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
