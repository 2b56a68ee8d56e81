// The epilogue, which is applied to a sum before it is stored:
//
//   y = residual + scale * activation(sum + bias + shift)
#pragma once

#include "math.h"
#include "multiply.h"
#include "rounding.h"

namespace fastdiff::network {

template <class L>
FASTDIFF_INLINE typename L::F activate(Activation activation, typename L::F u) {
#define FASTDIFF_CASE(enumerator, name, value) \
  case Activation::enumerator:                 \
    return value;
  switch (activation) { FASTDIFF_ACTIVATIONS(FASTDIFF_CASE) }
#undef FASTDIFF_CASE
  return u;
}

/// The coordinates of an output pixel. Moving on to the next pixel needs no division.
struct Position {
  int64_t image, y, x;

  /// A row of the matrix product is an output pixel; the pixels of all images are counted in order.
  static FASTDIFF_INLINE Position of_row(const Conv& conv, int64_t row) {
    const int64_t size = conv.out_height * conv.out_width, pixel = row % size;
    return {row / size, pixel / conv.out_width, pixel % conv.out_width};
  }
  FASTDIFF_INLINE void next(const Conv& conv) {
    if (++x < conv.out_width) return;
    x = 0;
    if (++y < conv.out_height) return;
    y = 0, ++image;
  }
};

/// Where an output pixel is stored, and where its residual is read, if there is one.
struct OutputPixel {
  Output y;
  const float* residual;
  int64_t image;

  OutputPixel() = default;
  FASTDIFF_INLINE OutputPixel(const Conv& conv, const Position& at) : image(at.image) {
    const int64_t row = at.y * conv.phases + conv.phase_y, width = conv.phases * conv.out_width;
    const int64_t column = at.x * conv.phases + conv.phase_x, pixel = row * width + column;
    const Pixels& from = conv.epilogue.residual;
    residual = from.data ? from.data + image * from.image + pixel * from.pixel : nullptr;
    if (const Rounded* to = conv.rounded) {
      // False if a row of tokens becomes the pixels of an image.
      const bool same = to->image_width == width;
      y = Output(same
                     ? rounded_pixel(*to, image, row, column)
                     : rounded_pixel(*to, image, pixel / to->image_width, pixel % to->image_width));
    } else {
      y = Output(conv.y.data + image * conv.y.image + pixel * conv.y.pixel);
    }
  }
};

/// Finishes and stores one vector of channels, from `column` on, of each of kRows pixels. Unless
/// kWhole, only the first `live` lanes are channels of the output.
template <class L, int kRows, bool kWhole>
FASTDIFF_INLINE void finish_vector(const Conv& conv, const OutputPixel* pixels, int64_t column,
                                   int64_t live, typename L::F (&y)[kRows]) {
  const Epilogue& e = conv.epilogue;
  const auto load = [&](const float* from) {
    return kWhole ? L::load(from) : L::load_part(from, live);
  };
  const auto per_image = [&](const PerImage& p, int r) {
    return load(p.data + pixels[r].image * p.image + column);
  };
  if (e.bias) {
    const typename L::F bias = load(e.bias + column);
    FASTDIFF_UNROLL
    for (int r = 0; r < kRows; ++r) y[r] += bias;
  }
  if (e.shift.data) {
    FASTDIFF_UNROLL
    for (int r = 0; r < kRows; ++r) y[r] += per_image(e.shift, r);
  }
  if (e.activation != Activation::kNone) {
    FASTDIFF_UNROLL
    for (int r = 0; r < kRows; ++r) y[r] = activate<L>(e.activation, y[r]);
  }
  if (e.scale.data) {
    FASTDIFF_UNROLL
    for (int r = 0; r < kRows; ++r) y[r] *= per_image(e.scale, r);
  }
  if (e.residual.data) {
    FASTDIFF_UNROLL
    for (int r = 0; r < kRows; ++r) y[r] += load(pixels[r].residual + column);
  }
  const int64_t count = kWhole ? L::kLanes : live;
  if (!conv.rounded) {
    FASTDIFF_UNROLL
    for (int r = 0; r < kRows; ++r) pixels[r].y.template store_float<L>(column, y[r], count);
  } else {
    const Format format(conv.rounded);
    FASTDIFF_UNROLL
    for (int r = 0; r < kRows; ++r) pixels[r].y.template store<L>(format, column, y[r], count);
  }
}

/// Finishes and stores the sums of `columns` channels, at most a panel, from `column` on, of each
/// of kRows pixels.
template <class L, int kRows>
FASTDIFF_INLINE void finish(const Conv& conv, const OutputPixel* pixels, int64_t column,
                            int64_t columns, const typename L::F (&sums)[kRows][kPanelVectors]) {
  FASTDIFF_UNROLL
  for (int v = 0; v < kPanelVectors; ++v) {
    const int64_t live = columns - v * L::kLanes;
    typename L::F y[kRows];
    FASTDIFF_UNROLL
    for (int r = 0; r < kRows; ++r) y[r] = sums[r][v];
    if (live >= L::kLanes) {
      finish_vector<L, kRows, true>(conv, pixels, column + v * L::kLanes, L::kLanes, y);
    } else if (live > 0) {
      finish_vector<L, kRows, false>(conv, pixels, column + v * L::kLanes, live, y);
    }
  }
}

}  // namespace fastdiff::network
