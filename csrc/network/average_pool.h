// Means over windows of an image.
#pragma once

#include "kind.h"
#include "norm.h"

namespace fastdiff::network {

/// Windows along one axis of an image. Both ends have the same padding, and the last windows may
/// reach beyond it.
struct Windows {
  int64_t size, count;  // pixels of x, and of y
  int64_t kernel, stride, padding = 0;
};

/// y = sum(x in the window) / divisor, by the channels of each window.
struct AveragePool {
  static constexpr const char* kName = "average_pool";
  static constexpr int kStages = 1;
  using Specs = TypeList<AveragePool>;

  Pixels x, y;
  int64_t images, channels;
  Windows down, across;
  bool count_include_pad = true;     // the divisor is of all pixels of a window, or of the image's
  int64_t divisor = 0;               // if not 0, of every window
  const Rounded* rounded = nullptr;  // if not null, where y goes instead

  template <class Fields>
  void describe(Fields& fields) {
    fields("x", x);
    fields("y", y);
    fields("images", images);
    fields("channels", channels);
    fields.pair("size", down.size, across.size);
    fields.pair("out_size", down.count, across.count);
    fields.pair("kernel", down.kernel, across.kernel);
    fields.pair("stride", down.stride, across.stride);
    fields.optional_pair("padding", down.padding, across.padding);
    fields.optional("count_include_pad", count_include_pad);
    fields.optional("divisor", divisor);
  }
  template <class Builder>
  void build(Builder& node) const;
};

/// The floats that a unit reads, about, and the channels of one that reads more for a single pixel.
constexpr int64_t kPoolFloats = 8192, kPoolChannels = 64;

/// Pixels of the image in a window, at most.
FASTDIFF_INLINE int64_t most_taps(const Windows& w) {
  return w.kernel < w.size ? w.kernel : w.size;
}
FASTDIFF_INLINE int64_t most_taps(const AveragePool& pool) {
  return most_taps(pool.down) * most_taps(pool.across);
}
FASTDIFF_INLINE int64_t unit_channels(const AveragePool& pool) {
  const bool whole = most_taps(pool) * pool.channels <= kPoolFloats;
  return whole || pool.channels < kPoolChannels ? pool.channels : kPoolChannels;
}
FASTDIFF_INLINE int64_t unit_pixels(const AveragePool& pool) {
  const int64_t floats = most_taps(pool) * unit_channels(pool);
  return floats < kPoolFloats ? kPoolFloats / floats : 1;
}
FASTDIFF_INLINE int64_t average_pool_units(const AveragePool& pool) {
  const int64_t blocks = divided_up(pool.down.count * pool.across.count, unit_pixels(pool));
  return pool.images * blocks * divided_up(pool.channels, unit_channels(pool));
}

template <class Builder>
void AveragePool::build(Builder& node) const {
  for (const Windows& w : {down, across}) {
    node.require(w.size > 0 && w.count > 0 && w.kernel > 0 && w.stride > 0 && w.padding >= 0,
                 "expected a size, a kernel and a stride");
    node.require(2 * w.padding <= w.kernel && (w.count - 1) * w.stride < w.size + w.padding,
                 "expected a pixel of the image in every window");
  }
  node.stage(*this, 0, average_pool_units(*this));
}

template <class L>
struct AveragePools : private Channels<L> {
  using typename Channels<L>::F;

  /// A unit is a block of pixels of y, or a part of the channels of one.
  static void run(const AveragePool& spec, float*, int64_t unit) {
    const Format format(spec.rounded);
    const int64_t width = spec.across.count, pixels = spec.down.count * width;
    const int64_t size = unit_pixels(spec), blocks = divided_up(pixels, size);
    const int64_t part = unit_channels(spec), parts = divided_up(spec.channels, part);
    const int64_t image = unit / (parts * blocks);
    const int64_t first = unit / parts % blocks * size, channel = unit % parts * part;
    const int64_t end = pixels - first < size ? pixels : first + size;
    const int64_t channels = spec.channels - channel < part ? spec.channels : channel + part;
    int64_t row = first / width, column = first % width;
    for (int64_t p = first; p < end; ++p) {
      const Window window(spec, image, row, column);
      const Output y(spec.y, spec.rounded, image, p);
      int64_t c = channel;
      for (; c + kBlock <= channels; c += kBlock) average<kVectors>(window, c, kBlock, format, y);
      for (; c < channels; c += L::kLanes) average<1>(window, c, channels - c, format, y);
      if (++column == width) column = 0, ++row;
    }
  }

 private:
  using Channels<L>::kVectors, Channels<L>::kBlock;
  using Channels<L>::pixel, Channels<L>::load;

  /// The pixels of an axis that a window holds: from `begin` to `end` in the image, and `all` of
  /// them with the padding.
  struct Span {
    int64_t begin, end, all;

    FASTDIFF_INLINE Span(const Windows& w, int64_t index) {
      const int64_t start = index * w.stride - w.padding, padded = w.size + w.padding;
      const int64_t stop = start + w.kernel < padded ? start + w.kernel : padded;
      begin = start > 0 ? start : 0, end = stop < w.size ? stop : w.size, all = stop - start;
    }
  };

  struct Window {
    const float* first;  // pixel
    int64_t rows, columns, row_step, step;
    float divisor;

    FASTDIFF_INLINE Window(const AveragePool& spec, int64_t image, int64_t row, int64_t column) {
      const Span down(spec.down, row), across(spec.across, column);
      first = pixel(spec.x, image, down.begin * spec.across.size + across.begin);
      rows = down.end - down.begin, columns = across.end - across.begin;
      row_step = spec.across.size * spec.x.pixel, step = spec.x.pixel;
      const int64_t counted = spec.count_include_pad ? down.all * across.all : rows * columns;
      divisor = float(spec.divisor ? spec.divisor : counted);
    }
  };

  /// Row by row and from left to right, as torch adds them up.
  template <int kCount>
  static FASTDIFF_INLINE void average(const Window& window, int64_t channel, int64_t live,
                                      const Format& format, const Output& y) {
    F sums[kCount] = {};
    for (int64_t i = 0; i < window.rows; ++i) {
      const float* x = window.first + i * window.row_step + channel;
      for (int64_t j = 0; j < window.columns; ++j) {
        FASTDIFF_UNROLL
        for (int v = 0; v < kCount; ++v) {
          sums[v] += load(x + j * window.step + v * L::kLanes, live);
        }
      }
    }
    FASTDIFF_UNROLL
    for (int v = 0; v < kCount; ++v) {
      y.template store<L>(format, channel + v * L::kLanes, sums[v] / window.divisor, live);
    }
  }
};

template <class A>
struct KernelsOf<AveragePool, A> {
  static constexpr Stages<AveragePool> stages = {{AveragePools<typename A::L>::run}};
};

}  // namespace fastdiff::network
