// How group norm and layer norm load and store the channels of a pixel: in whole vectors, and the
// remaining channels in part of one.
#pragma once

#include "epilogue.h"

namespace fastdiff::network {

template <class L>
struct Channels {
  using F = typename L::F;
  static constexpr int kVectors = 4;  // the vectors of channels that are computed at once
  static constexpr int64_t kBlock = kVectors * L::kLanes;

  static FASTDIFF_INLINE float* pixel(const Pixels& pixels, int64_t image, int64_t p) {
    return pixels.data + image * pixels.image + p * pixels.pixel;
  }
  static FASTDIFF_INLINE F load(const float* from, int64_t live) {
    return live >= L::kLanes ? L::load(from) : L::load_part(from, live);
  }
  static FASTDIFF_INLINE void store(float* to, F v, int64_t live) {
    if (live >= L::kLanes) {
      L::store(to, v);
    } else {
      L::store_part(to, v, live);
    }
  }
};

}  // namespace fastdiff::network
