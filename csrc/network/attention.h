// Attention in float32, on the online softmax of softmax.h.
//
// Queries fill the lanes of a vector, and each element of a key or a value is broadcast to all
// lanes. The number of keys and of channels therefore needs no padding.
#pragma once

#include "attention_spec.h"
#include "multiply.h"
#include "softmax.h"

namespace fastdiff::network {

/// The kernels of attention in float32 for the lane type L.
template <class L>
struct Attend {
  using F = typename L::F;

  /// Copies the values of kCopiedKeys keys of one head into contiguous memory. One unit is one such
  /// block of keys. Each panel of queries reads the values down their columns. Where the heads of a
  /// token lie side by side, consecutive values of a head are so far apart that they fall into few
  /// cache sets, and the panels would evict each other's lines.
  static void copy_values(const Attention& spec, float* scratch, int64_t unit) {
    const int64_t blocks = value_blocks(spec), first = unit % blocks * kCopiedKeys;
    const Head<L> head(spec, unit / blocks);
    float* to = values_of(spec, scratch, unit / blocks);
    for (int64_t key = first; key < first + kCopiedKeys && key < spec.keys; ++key) {
      memcpy(to + key * spec.value_depth, head.v + key * spec.v.token,
             size_t(spec.value_depth) * sizeof(float));
    }
  }

  /// Computes the output of one block of queries of one head, which is one unit.
  static void run(const Attention& spec, float* scratch, int64_t unit) {
    const int64_t index = unit / query_blocks(spec);
    ValueHead head{Head<L>(spec, index), spec.v.token};
    if (copies_values(spec)) {
      head.v = values_of(spec, scratch, index);
      head.token = spec.value_depth;
    }
    attend<Panel>(head, scratch, unit);
  }

 private:
  using Product = Multiply<L>;
  static constexpr int kVectors = kPanelVectors;
  static constexpr int kPanel = Product::kPanel;

  struct ValueHead : Head<L> {
    int64_t token;  // the distance from one value to the next, in floats
  };

  static FASTDIFF_INLINE float* values_of(const Attention& spec, float* scratch, int64_t index) {
    return scratch + attention_scratch(spec) + index * spec.keys * spec.value_depth;
  }

  class Panel : public Softmax<L, kVectors> {
   public:
    static constexpr int64_t kKeys = 128;  // keys of a block, after which the sums are rescaled

    FASTDIFF_INLINE void begin(const Head<L>& head, int64_t first, float* memory) {
      const int64_t depth = head.spec.depth;
      q_ = memory;
      Base::begin(first, memory + kPanel * depth);
      for (int v = 0; v < kVectors; ++v) {
        for (int64_t d = 0; d < depth; d += L::kLanes) {
          F columns[L::kLanes];
          this->load_queries(head, v, d, columns);
          const int64_t count = at_most_lanes<L>(depth - d);
          for (int64_t c = 0; c < count; ++c) L::store(column(q_, d + c, v), columns[c]);
        }
      }
    }

    /// Takes the keys [key, key + keys) and their values into the running softmax.
    void attend(const ValueHead& head, int64_t key, int64_t keys) {
      alignas(64) float scores[kKeys * kPanel];
      F factor[kVectors];
      multiply_keys(head, key, keys, scores, factor);
      exponentiate(keys, scores, factor);
      multiply_values(head, key, keys, scores, factor);
    }

   private:
    using Base = Softmax<L, kVectors>;
    using Base::column, Base::sums_, Base::top_;

    /// Computes the scores of a block of keys and raises the running maximum. `factor` gets what
    /// the sums of earlier blocks must be multiplied by, since the maximum has changed.
    FASTDIFF_INLINE void multiply_keys(const Head<L>& head, int64_t key, int64_t keys,
                                       float* scores, F (&factor)[kVectors]) {
      const int64_t token = head.spec.k.token;
      const float* k = head.k + key * token;
      F top[kVectors];
      for (int v = 0; v < kVectors; ++v) top[v] = top_[v];
      Product::for_tiles(keys, [&](auto size, int64_t row) {
        constexpr int kRows = decltype(size)::value;
        F sums[kRows][kVectors] = {};
        Product::template accumulate<kRows>(k + row * token, token, 1, q_, head.spec.depth, sums);
        FASTDIFF_UNROLL
        for (int r = 0; r < kRows; ++r) {
          FASTDIFF_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            top[v] = L::max(top[v], sums[r][v]);
            L::store(column(scores, row + r, v), sums[r][v]);
          }
        }
      });
      this->raise(top, factor);
    }

    /// Replaces the scores by the numerators of the softmax, in place, and adds them to the total.
    FASTDIFF_INLINE void exponentiate(int64_t keys, float* scores, const F (&factor)[kVectors]) {
      F sums[kVectors] = {}, top[kVectors];
      for (int v = 0; v < kVectors; ++v) top[v] = top_[v];
      for (int64_t row = 0; row < keys; ++row) {
        FASTDIFF_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          const F p = exp2_negative<L>(L::load(column(scores, row, v)) - top[v]);
          L::store(column(scores, row, v), p);
          sums[v] += p;
        }
      }
      this->add_to_total(sums, factor);
    }

    /// Rescales the sums of earlier blocks by `factor` and adds the weighted values of this block.
    FASTDIFF_INLINE void multiply_values(const ValueHead& head, int64_t key, int64_t keys,
                                         const float* p, const F (&factor)[kVectors]) {
      const int64_t token = head.token;
      const float* values = head.v + key * token;
      Product::for_tiles(head.spec.value_depth, [&](auto size, int64_t channel) {
        constexpr int kRows = decltype(size)::value;
        F sums[kRows][kVectors] = {};
        if (key > 0) {
          FASTDIFF_UNROLL
          for (int r = 0; r < kRows; ++r) {
            FASTDIFF_UNROLL
            for (int v = 0; v < kVectors; ++v) {
              sums[r][v] = L::load(column(sums_, channel + r, v)) * factor[v];
            }
          }
        }
        Product::template accumulate<kRows>(values + channel, 1, token, p, keys, sums);
        FASTDIFF_UNROLL
        for (int r = 0; r < kRows; ++r) {
          FASTDIFF_UNROLL
          for (int v = 0; v < kVectors; ++v) L::store(column(sums_, channel + r, v), sums[r][v]);
        }
      });
    }

    float* q_;  // the scaled queries, transposed: (depth, kPanel)
  };
};

}  // namespace fastdiff::network
