// The ranges of activations, from which the calibration of 8-bit integers takes its factors.
#pragma once

#include <algorithm>

#include "kind.h"
#include "operands.h"

namespace fastdiff::network {

/// Lowers low[channel] and raises high[channel] until the range contains x at all pixels of all
/// images.
struct Observe {
  static constexpr const char* kName = "observe";
  using Specs = TypeList<>;  // the kernel is the same at all instruction levels

  Pixels x;
  int64_t images, pixels, channels;
  float *low, *high;

  template <class Fields>
  void describe(Fields& fields) {
    fields("x", x);
    fields("images", images);
    fields("pixels", pixels);
    fields("channels", channels);
    fields("low", low);
    fields("high", high);
  }

  template <class Builder>
  void build(Builder& node) const {
    const Unit<Observe> all = [](const Observe& spec, float*, int64_t) {
      for (int64_t image = 0; image < spec.images; ++image) {
        for (int64_t p = 0; p < spec.pixels; ++p) {
          const float* x = spec.x.data + image * spec.x.image + p * spec.x.pixel;
          for (int64_t c = 0; c < spec.channels; ++c) {
            spec.low[c] = std::min(spec.low[c], x[c]);
            spec.high[c] = std::max(spec.high[c], x[c]);
          }
        }
      }
    };
    node.stage(*this, all, 1);
  }
};

}  // namespace fastdiff::network
