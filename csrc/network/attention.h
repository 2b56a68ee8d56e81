// Attention without the matrix of its scores: an online softmax over blocks of keys (Milakov and
// Gimelshein 2018; Rabe and Staats 2021; Dao et al. 2022).
//
// Queries are lanes. A panel of them is transposed once; keys and values are read where they lie,
// number by number, in two matrix products of one form:
//
//   scores (keys, queries)      =  K (keys, depth) . Q^T (depth, queries)
//   sums   (channels, queries) +=  V^T (channels, keys) . P (keys, queries)
//
// So the maximum, exponentials and sum of a softmax run down columns, each lane for itself, and
// neither keys nor channels are ever padded.
#pragma once

#include "counts.h"
#include "math.h"
#include "multiply.h"
#include "transpose.h"

namespace fastdiff::network {

template <class L>
struct Attend {
  using F = typename L::F;

  /// The queries of one unit: all keys, block by block, so that their panels find a block in cache.
  static void run(const Attention& spec, float* scratch, int64_t unit) {
    const int64_t size = unit_queries(spec), blocks = divided_up(spec.queries, size);
    const int64_t first = unit % blocks * size;
    const Head head(spec, unit / blocks);
    alignas(64) float stack[kStackFloats];
    float* memory = attention_scratch(spec) == 0 ? stack : scratch + unit * unit_floats(spec);

    Panel panels[kManyQueries / kPanel];
    int count = 0;
    for (int64_t q = first; q < first + size && q < spec.queries; q += kPanel) {
      panels[count++].begin(head, q, memory);
      memory += kPanel * (spec.depth + spec.value_depth);
    }
    for (int64_t key = 0; key < spec.keys; key += kKeys) {
      const int64_t keys = spec.keys - key < kKeys ? spec.keys - key : kKeys;
      for (int i = 0; i < count; ++i) panels[i].attend(head, key, keys);
    }
    for (int i = 0; i < count; ++i) panels[i].end(head);
  }

 private:
  using Product = Multiply<L>;
  static constexpr int kVectors = kPanelVectors;
  static constexpr int kPanel = Product::kPanel;  // queries
  static constexpr int64_t kKeys = 128;           // between two corrections of the sums
  static_assert(kFewQueries % kPanel == 0, "a unit is whole panels");

  struct Head {
    const Attention& spec;
    const float *q, *k, *v;
    float* y;

    FASTDIFF_INLINE Head(const Attention& attention, int64_t index)
        : spec(attention),
          q(of(spec.q, index)),
          k(of(spec.k, index)),
          v(of(spec.v, index)),
          y(of(spec.y, index)) {}

   private:
    FASTDIFF_INLINE float* of(const Heads& heads, int64_t index) const {
      return heads.data + index / spec.heads * heads.image + index % spec.heads * heads.head;
    }
  };

  /// The state of kPanel queries, from `first` on; those behind the last one are zeros.
  class Panel {
   public:
    FASTDIFF_INLINE void begin(const Head& head, int64_t first, float* memory) {
      const Attention& spec = head.spec;
      first_ = first;
      live_ = spec.queries - first;
      q_ = memory;
      sums_ = memory + kPanel * spec.depth;
      const float scale =
          spec.scale * 0x1.715476p+0f;  // log2(e): the softmax is one of powers of 2
      for (int v = 0; v < kVectors; ++v) {
        top_[v] = L::splat(-__builtin_inff());
        total_[v] = F{};
        for (int64_t d = 0; d < spec.depth; d += L::kLanes) {
          F square[L::kLanes];
          for (int r = 0; r < L::kLanes; ++r) {
            const int64_t row = v * L::kLanes + r;
            const float* q = head.q + (first + row) * spec.q.token + d;
            square[r] = row < live_ ? load(q, spec.depth - d) * scale : F{};
          }
          Transpose<L>::square(square);
          const int64_t count = at_most_lanes(spec.depth - d);
          for (int64_t c = 0; c < count; ++c) L::store(column(q_, d + c, v), square[c]);
        }
      }
    }

    /// Adds the keys [key, key + keys) and their values.
    void attend(const Head& head, int64_t key, int64_t keys) {
      alignas(64) float scores[kKeys * kPanel];
      F factor[kVectors];
      multiply_keys(head, key, keys, scores, factor);
      exponentiate(keys, scores, factor);
      multiply_values(head, key, keys, scores, factor);
    }

    FASTDIFF_INLINE void end(const Head& head) const {
      const Attention& spec = head.spec;
      for (int v = 0; v < kVectors; ++v) {
        const F inverse = 1.0f / total_[v];
        for (int64_t d = 0; d < spec.value_depth; d += L::kLanes) {
          const int64_t count = at_most_lanes(spec.value_depth - d);
          F square[L::kLanes] = {};
          for (int64_t c = 0; c < count; ++c) {
            square[c] = L::load(column(sums_, d + c, v)) * inverse;
          }
          Transpose<L>::square(square);
          const int64_t rows = at_most_lanes(live_ - v * L::kLanes);
          for (int64_t r = 0; r < rows; ++r) {
            float* y = head.y + (first_ + v * L::kLanes + r) * spec.y.token + d;
            if (count == L::kLanes) {
              L::store(y, square[r]);
            } else {
              L::store_part(y, square[r], count);
            }
          }
        }
      }
    }

   private:
    /// Scores of a block; raises the maximum and says by which factor older sums shrink.
    FASTDIFF_INLINE void multiply_keys(const Head& head, int64_t key, int64_t keys, float* scores,
                                       F (&factor)[kVectors]) {
      const int64_t token = head.spec.k.token;
      const float* k = head.k + key * token;
      F top[kVectors];
      for (int v = 0; v < kVectors; ++v) top[v] = top_[v];
      Product::for_tiles(keys, [&](auto size, int64_t row) {
        constexpr int kRows = decltype(size)::value;
        F sums[kRows][kVectors] = {};
        accumulate<kRows>(k + row * token, token, 1, q_, head.spec.depth, sums);
        FASTDIFF_UNROLL
        for (int r = 0; r < kRows; ++r) {
          FASTDIFF_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            top[v] = L::max(top[v], sums[r][v]);
            L::store(column(scores, row + r, v), sums[r][v]);
          }
        }
      });
      for (int v = 0; v < kVectors; ++v) {
        factor[v] = exp2_negative<L>(top_[v] - top[v]);
        top_[v] = top[v];
      }
    }

    /// From scores to numerators of their probabilities, in place.
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
      for (int v = 0; v < kVectors; ++v) total_[v] = L::fma(total_[v], factor[v], sums[v]);
    }

    FASTDIFF_INLINE void multiply_values(const Head& head, int64_t key, int64_t keys,
                                         const float* p, const F (&factor)[kVectors]) {
      const int64_t token = head.spec.v.token;
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
        accumulate<kRows>(values + channel, 1, token, p, keys, sums);
        FASTDIFF_UNROLL
        for (int r = 0; r < kRows; ++r) {
          FASTDIFF_UNROLL
          for (int v = 0; v < kVectors; ++v) L::store(column(sums_, channel + r, v), sums[r][v]);
        }
      });
    }

    float *q_, *sums_;  // (depth, kPanel) and (value_depth, kPanel)
    int64_t first_, live_;
    F top_[kVectors], total_[kVectors];
  };

  static FASTDIFF_INLINE float* column(float* panel, int64_t row, int vector) {
    return panel + row * kPanel + vector * L::kLanes;
  }
  static FASTDIFF_INLINE int64_t at_most_lanes(int64_t count) {
    return count < L::kLanes ? count : L::kLanes;
  }
  static FASTDIFF_INLINE F load(const float* from, int64_t live) {
    return live >= L::kLanes ? L::load(from) : L::load_part(from, live);
  }

  /// sums[r][:] += sum over i of a[r * row + i * step] * panel[i * kPanel + :].
  template <int kRows>
  static FASTDIFF_INLINE void accumulate(const float* a, int64_t row, int64_t step,
                                         const float* panel, int64_t count,
                                         F (&sums)[kRows][kVectors]) {
    for (int64_t i = 0; i < count; ++i, a += step, panel += kPanel) {
      F b[kVectors];
      FASTDIFF_UNROLL
      for (int v = 0; v < kVectors; ++v) b[v] = L::load(panel + v * L::kLanes);
      FASTDIFF_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const F factor = L::broadcast(a + r * row);
        FASTDIFF_UNROLL
        for (int v = 0; v < kVectors; ++v) sums[r][v] = L::fma(factor, b[v], sums[r][v]);
      }
    }
  }
};

}  // namespace fastdiff::network
