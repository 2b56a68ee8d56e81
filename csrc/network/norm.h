// Normalisation over groups of channels of an image, and over the channels of a pixel.
#pragma once

#include "counts.h"
#include "epilogue.h"

namespace fastdiff::network {

template <class L>
struct Norms {
  using F = typename L::F;

  /// Mean and sum of squared deviations of each channel of a chunk of pixels.
  static void statistics(const GroupNorm& spec, float* scratch, int64_t unit) {
    const Chunk chunk(spec, unit);
    const float* x = pixel(spec.x, chunk.image, chunk.first);
    float* mean = chunk_moments(spec, scratch, unit);
    float* squares = mean + spec.channels;
    int64_t c = 0;
    for (; c + kBlock <= spec.channels; c += kBlock) {
      moments<kVectors>(x + c, spec.x.pixel, chunk.pixels, kBlock, mean + c, squares + c);
    }
    for (; c < spec.channels; c += L::kLanes) {
      moments<1>(x + c, spec.x.pixel, chunk.pixels, spec.channels - c, mean + c, squares + c);
    }
  }

  /// What normalises each channel of an image: y = x * scale + shift. In double.
  static void combine(const GroupNorm& spec, float* scratch, int64_t image) {
    double* mean = image_moments(spec, scratch, image);
    double* squares = mean + spec.channels;
    combine_chunks(spec, scratch, image, mean, squares);
    float* scale = affine(spec, scratch, image);
    float* shift = scale + spec.channels;
    const int64_t size = spec.channels / spec.groups;
    for (int64_t first = 0; first < spec.channels; first += size) {
      double group_mean = 0, inside = 0, between = 0;
      for (int64_t c = first; c < first + size; ++c) group_mean += mean[c];
      group_mean /= double(size);
      for (int64_t c = first; c < first + size; ++c) {
        inside += squares[c];
        between += (mean[c] - group_mean) * (mean[c] - group_mean);
      }
      const double variance = (inside / double(spec.pixels) + between) / double(size);
      const double inverse = 1.0 / __builtin_sqrt(variance + double(spec.epsilon));
      for (int64_t c = first; c < first + size; ++c) {
        const double factor = spec.gamma ? inverse * double(spec.gamma[c]) : inverse;
        scale[c] = float(factor);
        shift[c] = float((spec.beta ? double(spec.beta[c]) : 0.0) - group_mean * factor);
      }
    }
  }

  /// y = activation(x * scale + shift); y may be x.
  static void apply(const GroupNorm& spec, float* scratch, int64_t unit) {
#define FASTDIFF_CASE(enumerator, name, value) \
  case Activation::enumerator:                 \
    return apply_affine<Activation::enumerator>(spec, scratch, unit);
    switch (spec.activation) { FASTDIFF_ACTIVATIONS(FASTDIFF_CASE) }
#undef FASTDIFF_CASE
  }

  /// y may be x.
  static void layer_norm(const LayerNorm& spec, float*, int64_t unit) {
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
  static constexpr int kVectors = 4;  // of channels, at once
  static constexpr int64_t kBlock = kVectors * L::kLanes;
  static constexpr int64_t kPixels = 4;  // step by step: the end of one sum overlaps with the next

  struct Chunk {
    int64_t image, first, pixels;

    FASTDIFF_INLINE Chunk(const GroupNorm& spec, int64_t unit) {
      const int64_t size = chunk_pixels(spec), chunks = chunk_count(spec);
      image = unit / chunks;
      first = unit % chunks * size;
      pixels = spec.pixels - first < size ? spec.pixels - first : size;
    }
  };

  // The scratch memory: two doubles for each image and channel, then two floats for each of them,
  // then two floats for each image, chunk and channel.
  static double* image_moments(const GroupNorm& spec, float* scratch, int64_t image) {
    return reinterpret_cast<double*>(scratch) + 2 * image * spec.channels;
  }
  static float* affine(const GroupNorm& spec, float* scratch, int64_t image) {
    return scratch + (4 * spec.images + 2 * image) * spec.channels;
  }
  static float* chunk_moments(const GroupNorm& spec, float* scratch, int64_t chunk) {
    return scratch + (6 * spec.images + 2 * chunk) * spec.channels;
  }

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

  /// In two passes, the second of which finds its pixels in the first level of cache.
  template <int kCount>
  static FASTDIFF_INLINE void moments(const float* x, int64_t stride, int64_t pixels, int64_t live,
                                      float* mean, float* squares) {
    F sums[kCount] = {}, deviations[kCount] = {};
    for (int64_t p = 0; p < pixels; ++p) {
      FASTDIFF_UNROLL
      for (int v = 0; v < kCount; ++v) sums[v] += load(x + p * stride + v * L::kLanes, live);
    }
    FASTDIFF_UNROLL
    for (int v = 0; v < kCount; ++v) sums[v] = sums[v] / float(pixels);
    for (int64_t p = 0; p < pixels; ++p) {
      FASTDIFF_UNROLL
      for (int v = 0; v < kCount; ++v) {
        const F off = load(x + p * stride + v * L::kLanes, live) - sums[v];
        deviations[v] = L::fma(off, off, deviations[v]);
      }
    }
    FASTDIFF_UNROLL
    for (int v = 0; v < kCount; ++v) {
      store(mean + v * L::kLanes, sums[v], live);
      store(squares + v * L::kLanes, deviations[v], live);
    }
  }

  /// Mean and sum of squared deviations of each channel of an image: the deviations from the mean
  /// of a whole are those from the means of its parts, and those of these means (Chan, Golub and
  /// LeVeque, "Algorithms for computing the sample variance", 1983).
  static void combine_chunks(const GroupNorm& spec, float* scratch, int64_t image,
                             double* __restrict mean, double* __restrict squares) {
    const int64_t chunks = chunk_count(spec), first = image * chunks;
    const float* pivot = chunk_moments(spec, scratch, first);
    for (int64_t c = 0; c < spec.channels; ++c) mean[c] = squares[c] = 0;
    for (int64_t i = first; i < first + chunks; ++i) {
      const double pixels = double(Chunk(spec, i).pixels);
      const float* part = chunk_moments(spec, scratch, i);
      for (int64_t c = 0; c < spec.channels; ++c) {
        const double off = double(part[c]) - double(pivot[c]);
        mean[c] += pixels * off;
        squares[c] += pixels * off * off + double(part[spec.channels + c]);
      }
    }
    for (int64_t c = 0; c < spec.channels; ++c) {
      const double off = mean[c] / double(spec.pixels);
      squares[c] -= off * mean[c];
      mean[c] = double(pivot[c]) + off;
    }
  }

  template <Activation kActivation>
  static FASTDIFF_INLINE void apply_affine(const GroupNorm& spec, float* scratch, int64_t unit) {
    const Format format(spec.rounded);
    const Chunk chunk(spec, unit);
    const float* scale = affine(spec, scratch, chunk.image);
    const float* shift = scale + spec.channels;
    for (int64_t p = chunk.first; p < chunk.first + chunk.pixels; ++p) {
      const float* x = pixel(spec.x, chunk.image, p);
      const Output y(spec.y, spec.rounded, chunk.image, p);
      int64_t c = 0;
      for (; c + kBlock <= spec.channels; c += kBlock) {
        FASTDIFF_UNROLL
        for (int64_t i = c; i < c + kBlock; i += L::kLanes) {
          const F v = L::fma(L::load(x + i), L::load(scale + i), L::load(shift + i));
          y.template store<L>(format, i, activate<L>(kActivation, v));
        }
      }
      for (; c < spec.channels; c += L::kLanes) {
        const int64_t live = spec.channels - c;
        const F v = L::fma(load(x + c, live), load(scale + c, live), load(shift + c, live));
        y.template store<L>(format, c, activate<L>(kActivation, v), live);
      }
    }
  }

  /// Of x, or of (x - mean)^2.
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

  /// y = ((x - mean) * inverse * gamma + beta) * (1 + scale) + shift of some pixels.
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
      F offset = spec.beta ? load(spec.beta + c, live) : F{};
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

}  // namespace fastdiff::network
