// Group normalisation: over all pixels and a group of channels of an image.
#pragma once

#include "kind.h"
#include "norm.h"

namespace fastdiff::network {

/// y = activation(normalised x * gamma + beta) over groups of channels of one image.
struct GroupNorm {
  static constexpr const char* kName = "group_norm";
  static constexpr int kStages = 3;  // moments of chunks; scale and shift of images; application
  using Specs = TypeList<GroupNorm>;

  Pixels x, y;
  int64_t images, pixels, channels, groups;
  const float *gamma, *beta;  // (channels,), or null
  float epsilon;
  Activation activation = Activation::kNone;
  const Rounded* rounded = nullptr;  // if not null, y is rounded and stored there instead

  template <class Fields>
  void describe(Fields& fields) {
    fields("x", x);
    fields("y", y);
    fields("images", images);
    fields("pixels", pixels);
    fields("channels", channels);
    fields("groups", groups);
    fields("gamma", gamma);
    fields("beta", beta);
    fields("epsilon", epsilon);
    fields.optional("activation", activation);
  }
  template <class Builder>
  void build(Builder& node) const;
};

/// The pixels of a chunk: a quarter of an image, but at least 16 and at most 64. Within a chunk the
/// sums are in float32; the sums of chunks are combined in float64.
FASTDIFF_INLINE int64_t chunk_pixels(const GroupNorm& norm) {
  const int64_t quarter = divided_up(norm.pixels, 4);
  return quarter < 16 ? 16 : quarter > 64 ? 64 : quarter;
}
FASTDIFF_INLINE int64_t chunk_count(const GroupNorm& norm) {
  return divided_up(norm.pixels, chunk_pixels(norm));
}
/// The number of units of a stage. Stage 1 has one for each image, the others one for each chunk.
FASTDIFF_INLINE int64_t group_norm_units(const GroupNorm& norm, int stage) {
  return stage == 1 ? norm.images : norm.images * chunk_count(norm);
}
/// The floats of scratch memory. For each channel, an image needs two doubles and two floats, and a
/// chunk needs two floats.
FASTDIFF_INLINE int64_t group_norm_scratch(const GroupNorm& norm) {
  return norm.images * (6 + 2 * chunk_count(norm)) * norm.channels;
}

template <class Builder>
void GroupNorm::build(Builder& node) const {
  node.require(groups > 0 && channels % groups == 0, "expected groups of equal size");
  for (int i = 0; i < kStages; ++i) node.stage(*this, i, group_norm_units(*this, i));
  node.scratch_floats = group_norm_scratch(*this);
}

/// The kernels of group normalisation for the lane type L.
template <class L>
struct GroupNorms : private Channels<L> {
  using typename Channels<L>::F;

  /// Computes the mean and the sum of squared deviations of each channel of a chunk.
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

  /// Computes, in float64, the `scale` and `shift` that normalise each channel of an image:
  /// y = x * scale + shift.
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

  /// Computes y = activation(x * scale + shift). y may be x.
  static void apply(const GroupNorm& spec, float* scratch, int64_t unit) {
#define FASTDIFF_CASE(enumerator, name, value) \
  case Activation::enumerator:                 \
    return apply_affine<Activation::enumerator>(spec, scratch, unit);
    switch (spec.activation) { FASTDIFF_ACTIVATIONS(FASTDIFF_CASE) }
#undef FASTDIFF_CASE
  }

 private:
  using Channels<L>::kVectors, Channels<L>::kBlock;
  using Channels<L>::pixel, Channels<L>::load, Channels<L>::store;

  struct Chunk {
    int64_t image, first, pixels;

    FASTDIFF_INLINE Chunk(const GroupNorm& spec, int64_t unit) {
      const int64_t size = chunk_pixels(spec), chunks = chunk_count(spec);
      image = unit / chunks;
      first = unit % chunks * size;
      pixels = spec.pixels - first < size ? spec.pixels - first : size;
    }
  };

  // The layout of the scratch memory: two doubles for each image and channel (mean and squares),
  // then two floats for each image and channel (scale and shift), then two floats for each chunk
  // and channel (mean and squares).
  static double* image_moments(const GroupNorm& spec, float* scratch, int64_t image) {
    return reinterpret_cast<double*>(scratch) + 2 * image * spec.channels;
  }
  static float* affine(const GroupNorm& spec, float* scratch, int64_t image) {
    return scratch + (4 * spec.images + 2 * image) * spec.channels;
  }
  static float* chunk_moments(const GroupNorm& spec, float* scratch, int64_t chunk) {
    return scratch + (6 * spec.images + 2 * chunk) * spec.channels;
  }

  /// Computes the moments of kCount vectors of channels in two passes over the pixels. The second
  /// pass finds the pixels in the first-level cache.
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

  /// Combines the moments of the chunks of an image into its mean and sum of squared deviations.
  ///
  /// The squared deviations from the mean of the whole are those from the means of the parts plus
  /// those of the parts' means from the mean of the whole (Chan, Golub and LeVeque, "Algorithms for
  /// computing the sample variance", 1983). Deviations are taken from the first chunk's mean, the
  /// pivot, so that large means do not cancel.
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
};

template <class A>
struct KernelsOf<GroupNorm, A> {
  using Kernels = GroupNorms<typename A::L>;
  static constexpr Stages<GroupNorm> stages = {
      {Kernels::statistics, Kernels::combine, Kernels::apply}};
};

}  // namespace fastdiff::network
