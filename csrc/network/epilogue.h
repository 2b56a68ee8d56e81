// What happens to a sum before it is stored: y = residual + scale * activation(sum + bias + shift).
#pragma once

#include "math.h"
#include "multiply.h"

namespace fastdiff::network {

template <class L>
FASTDIFF_INLINE typename L::F activate(Activation activation, typename L::F x) {
  switch (activation) {
    case Activation::kSilu:
      return silu<L>(x);
    case Activation::kGelu:
      return gelu<L>(x);
    case Activation::kGeluTanh:
      return gelu_tanh<L>(x);
    default:
      return x;
  }
}

/// Stores the sums of `columns` (at most a panel) channels of one pixel, from channel `column` on.
template <class L>
FASTDIFF_INLINE void finish(const Conv& conv, int64_t image, int64_t pixel, int64_t column,
                            int64_t columns, typename L::F (&sums)[kPanelVectors]) {
  using F = typename L::F;
  const Epilogue& e = conv.epilogue;
  const auto at = [&](const Pixels& p) { return p.data + image * p.image + pixel * p.pixel; };
  FASTDIFF_UNROLL
  for (int v = 0; v < kPanelVectors; ++v) {
    const int64_t c = column + v * L::kLanes, rest = columns - v * L::kLanes;
    if (rest <= 0) return;
    const bool whole = rest >= L::kLanes;
    const auto load = [&](const float* from) {
      return whole ? L::load(from) : L::load_part(from, rest);
    };
    F y = sums[v];
    if (e.bias) y += load(e.bias + c);
    if (e.shift.data) y += load(e.shift.data + image * e.shift.image + c);
    y = activate<L>(e.activation, y);
    if (e.scale.data) y *= load(e.scale.data + image * e.scale.image + c);
    if (e.residual.data) y += load(at(e.residual) + c);
    float* to = at(conv.y) + c;
    if (whole) {
      L::store(to, y);
    } else {
      L::store_part(to, y, rest);
    }
  }
}

}  // namespace fastdiff::network
