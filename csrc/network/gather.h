// Rows of a table, picked by labels, as an embedding layer does it.
#pragma once

#include <algorithm>
#include <limits>

#include "kind.h"
#include "operands.h"
#include "tile_math.h"

namespace fastdiff::network {

/// y[i, :] = table[labels[i], :]. The table is in float32, or in bfloat16 if `halves` is set.
struct Gather {
  static constexpr const char* kName = "gather";
  using Specs = TypeList<>;  // the kernel is the same at all instruction levels

  const int64_t* labels;
  const void* table;
  bool halves = false;
  float* y;
  int64_t images, label_image, y_image;  // the latter two: elements from one image to the next
  int64_t rows, channels;

  template <class Fields>
  void describe(Fields& fields) {
    fields.vector("labels", labels, label_image);
    fields("table", table);
    fields("rows", rows);
    fields("channels", channels);
    fields.vector("y", y, y_image);
    fields("images", images);
    fields.optional("halves", halves);
  }

  /// A label outside the table gives NaN, which the sampler reports. No memory outside is read.
  template <class Builder>
  void build(Builder& node) const {
    const Unit<Gather> row = [](const Gather& spec, float*, int64_t image) {
      const int64_t label = spec.labels[image * spec.label_image];
      float* to = spec.y + image * spec.y_image;
      if (label < 0 || label >= spec.rows) {
        std::fill_n(to, spec.channels, std::numeric_limits<float>::quiet_NaN());
      } else if (spec.halves) {
        const auto* from = static_cast<const uint16_t*>(spec.table) + label * spec.channels;
        std::transform(from, from + spec.channels, to, Bfloat16::widen);
      } else {
        const auto* from = static_cast<const float*>(spec.table) + label * spec.channels;
        std::copy_n(from, spec.channels, to);
      }
    };
    node.stage(*this, row, images);
  }
};

}  // namespace fastdiff::network
