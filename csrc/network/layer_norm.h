// Layer normalisation: over the channels of each pixel.
#pragma once

#include "kind.h"
#include "norm.h"

namespace fastdiff::network {

/// y = (normalised x * gamma + beta) * (1 + scale) + shift over the channels of each pixel.
struct LayerNorm {
  static constexpr const char* kName = "layer_norm";
  static constexpr int kStages = 1;
  using Specs = TypeList<LayerNorm>;

  Pixels x, y;
  int64_t images, pixels, channels;
  const float *gamma = nullptr, *beta = nullptr;  // (channels,), or null
  PerImage scale = {}, shift = {};                // (channels,) of each image, or null
  float epsilon;
  bool centred = true;               // false for RMS norm, which does not subtract the mean
  const Rounded* rounded = nullptr;  // if not null, y is rounded and stored there instead

  template <class Fields>
  void describe(Fields& fields) {
    fields("x", x);
    fields("y", y);
    fields("images", images);
    fields("pixels", pixels);
    fields("channels", channels);
    fields.optional("gamma", gamma);
    fields.optional("beta", beta);
    fields.optional("scale", scale);
    fields.optional("shift", shift);
    fields("epsilon", epsilon);
    fields.optional("centred", centred);
  }
  template <class Builder>
  void build(Builder& node) const;
};

/// The pixels of a unit: about 8192 floats, but at least one pixel.
FASTDIFF_INLINE int64_t unit_pixels(const LayerNorm& norm) {
  return norm.channels < 8192 ? 8192 / norm.channels : 1;
}
FASTDIFF_INLINE int64_t layer_norm_units(const LayerNorm& norm) {
  return norm.images * divided_up(norm.pixels, unit_pixels(norm));
}

template <class Builder>
void LayerNorm::build(Builder& node) const {
  node.stage(*this, 0, layer_norm_units(*this));
}

/// The kernel of layer normalisation for the lane type L.
template <class L>
struct LayerNorms : private Channels<L> {
  using typename Channels<L>::F;

  /// Normalises the pixels of a unit. y may be x.
  static void run(const LayerNorm& spec, float*, int64_t unit) {
    const int64_t size = unit_pixels(spec), blocks = divided_up(spec.pixels, size);
    const int64_t image = unit / blocks, first = unit % blocks * size;
    const int64_t end = first + size < spec.pixels ? first + size : spec.pixels;
    const float channels = float(spec.channels);
    for (int64_t p = first; p < end; p += kPixels) {
      const int64_t count = end - p < kPixels ? end - p : kPixels;
      float mean[kPixels] = {}, inverse[kPixels];
      for (int64_t i = 0; i < count && spec.centred; ++i) {
        mean[i] = sum<false>(pixel(spec.x, image, p + i), spec.channels, 0.0f) / channels;
      }
      for (int64_t i = 0; i < count; ++i) {
        const float squares = sum<true>(pixel(spec.x, image, p + i), spec.channels, mean[i]);
        inverse[i] = 1.0f / __builtin_sqrtf(squares / channels + spec.epsilon);
      }
      modulate(spec, image, p, count, mean, inverse);
    }
  }

 private:
  using Channels<L>::kVectors, Channels<L>::kBlock;
  using Channels<L>::pixel, Channels<L>::load;
  // Pixels at a time, so that the end of one pixel's sum overlaps with the beginning of the next.
  static constexpr int64_t kPixels = 4;

  /// Returns the sum of x, or of (x - mean)^2 if kSquared.
  template <bool kSquared>
  static FASTDIFF_INLINE float sum(const float* x, int64_t channels, float mean) {
    F sums[kVectors] = {};
    const auto off = [&](F value) { return kSquared ? value - mean : value; };
    const auto add = [&](int v, F value) {
      sums[v] = kSquared ? L::fma(value, value, sums[v]) : sums[v] + value;
    };
    int64_t c = 0;
    for (; c + kBlock <= channels; c += kBlock) {
      FASTDIFF_UNROLL
      for (int v = 0; v < kVectors; ++v) add(v, off(L::load(x + c + v * L::kLanes)));
    }
    for (; c + L::kLanes <= channels; c += L::kLanes) add(0, off(L::load(x + c)));
    if (c < channels) {
      float rest[L::kLanes];
      L::store(rest, off(L::load_part(x + c, channels - c)));
      add(1, L::load_part(rest, channels - c));
    }
    return L::sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }

  /// Computes y = ((x - mean) * inverse * gamma + beta) * (1 + scale) + shift for `count` pixels.
  static FASTDIFF_INLINE void modulate(const LayerNorm& spec, int64_t image, int64_t first,
                                       int64_t count, const float* mean, const float* inverse) {
    const Format format(spec.rounded);
    const float* x[kPixels];
    Output y[kPixels];
    for (int64_t i = 0; i < count; ++i) {
      x[i] = pixel(spec.x, image, first + i);
      y[i] = Output(spec.y, spec.rounded, image, first + i);
    }
    const auto of_image = [&](const PerImage& vector) {
      return vector.data ? vector.data + image * vector.image : nullptr;
    };
    const float *scale = of_image(spec.scale), *shift = of_image(spec.shift);
    const auto vectors = [&](int64_t c, int64_t live) {
      F factor = spec.gamma ? load(spec.gamma + c, live) : L::splat(1.0f);
      F offset = spec.beta ? load(spec.beta + c, live) : L::splat(-0.0f);  // keeps the sign of zero
      if (scale) {
        const F grown = 1.0f + load(scale + c, live);
        factor *= grown, offset *= grown;
      }
      if (shift) offset += load(shift + c, live);
      for (int64_t i = 0; i < count; ++i) {
        const F v = (load(x[i] + c, live) - mean[i]) * inverse[i];
        y[i].template store<L>(format, c, L::fma(v, factor, offset), live);
      }
    };
    int64_t c = 0;
    for (; c + L::kLanes <= spec.channels; c += L::kLanes) vectors(c, L::kLanes);
    if (c < spec.channels) vectors(c, spec.channels - c);
  }
};

template <class A>
struct KernelsOf<LayerNorm, A> {
  static constexpr Stages<LayerNorm> stages = {{LayerNorms<typename A::L>::run}};
};

}  // namespace fastdiff::network
