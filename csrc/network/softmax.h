// The online softmax over blocks of keys (Milakov and Gimelshein 2018; Rabe and Staats 2021; Dao et
// al. 2022), which attention in float32 and attention with tiles share.
//
// The matrix of all scores is never stored. A panel of queries is transposed once, so that its
// queries are the lanes of vectors. For each block of keys it goes through two matrix products:
//
//   scores (keys, queries)      =  K (keys, depth) . Q^T (depth, queries)
//   sums   (channels, queries) +=  V^T (channels, keys) . P (keys, queries)
//
// The maximum, the exponentials and the total of a query's softmax are then operations on the lane
// of that query, and no sum across lanes is needed.
#pragma once

#include "attention_spec.h"
#include "math.h"
#include "rounding.h"
#include "transpose.h"

namespace fastdiff::network {

/// The operands of one head of one image.
template <class L>
struct Head {
  const Attention& spec;
  const float *q, *k, *v;
  int64_t image, channel;  // `channel`: the head's first channel within a token of y

  FASTDIFF_INLINE Head(const Attention& attention, int64_t index)
      : spec(attention),
        q(of(spec.q, index)),
        k(of(spec.k, index)),
        v(of(spec.v, index)),
        image(index / spec.heads),
        channel(index % spec.heads * spec.y.head) {}

 private:
  FASTDIFF_INLINE float* of(const Heads& heads, int64_t index) const {
    return heads.data + index / spec.heads * heads.image + index % spec.heads * heads.head;
  }
};

/// The running softmax of a panel of queries: their maxima, totals and weighted sums of values.
template <class L, int kVectors>
class Softmax {
 public:
  using F = typename L::F;
  static constexpr int kPanel = kVectors * L::kLanes;
  static_assert(kFewQueries % kPanel == 0, "a unit is whole panels");

  /// Stores sums / total. The total is 1 or more, or 0 if every score was -infinity.
  FASTDIFF_INLINE void end(const Head<L>& head) const {
    const Attention& spec = head.spec;
    const Pixels tokens = {spec.y.data, spec.y.image, spec.y.token};
    const Format format(spec.rounded);
    const float least = spec.nan_without_shares ? 0.0f : 0.5f;
    for (int v = 0; v < kVectors; ++v) {
      const F inverse = 1.0f / L::max(L::splat(least), total_[v]);
      const int64_t first = first_ + v * L::kLanes;
      const int64_t rows = at_most_lanes<L>(spec.queries - first);
      Output y[L::kLanes];
      for (int64_t r = 0; r < rows; ++r) {
        y[r] = Output(tokens, spec.rounded, head.image, first + r);
      }
      for (int64_t d = 0; d < spec.value_depth; d += L::kLanes) {
        const int64_t count = at_most_lanes<L>(spec.value_depth - d);
        F square[L::kLanes] = {};
        for (int64_t c = 0; c < count; ++c) {
          square[c] = L::load(column(sums_, d + c, v)) * inverse;
        }
        Transpose<L>::square(square);
        for (int64_t r = 0; r < rows; ++r) {
          y[r].template store<L>(format, head.channel + d, square[r], count);
        }
      }
    }
  }

 protected:
  /// Starts with the queries from `first` on. `sums` is memory for (value_depth, kPanel) floats.
  FASTDIFF_INLINE void begin(int64_t first, float* sums) {
    first_ = first;
    sums_ = sums;
    for (int v = 0; v < kVectors; ++v) {
      top_[v] = L::splat(-__FLT_MAX__);  // finite: a score of -infinity is infinitely far below it
      total_[v] = F{};
    }
  }

  /// Loads the channels [d, d + kLanes) of vector v of the queries, scaled and transposed, with
  /// zeros after the last query and channel.
  FASTDIFF_INLINE void load_queries(const Head<L>& head, int v, int64_t d,
                                    F (&columns)[L::kLanes]) const {
    const Attention& spec = head.spec;
    const float scale = spec.scale * 0x1.715476p+0f;  // log2(e), as the softmax uses powers of 2
    const int64_t first = first_ + v * L::kLanes;
    load_columns<L>(head.q + first * spec.q.token + d, spec.q.token, spec.queries - first,
                    spec.depth - d, columns);
    for (F& lanes : columns) lanes *= scale;
  }

  /// Raises the maximum to `top`. `factor` gets what earlier sums must be multiplied by.
  FASTDIFF_INLINE void raise(const F (&top)[kVectors], F (&factor)[kVectors]) {
    for (int v = 0; v < kVectors; ++v) {
      factor[v] = exp2_negative<L>(top_[v] - top[v]);
      top_[v] = top[v];
    }
  }

  /// Rescales the totals by `factor` and adds the sums of a block.
  FASTDIFF_INLINE void add_to_total(const F (&sums)[kVectors], const F (&factor)[kVectors]) {
    for (int v = 0; v < kVectors; ++v) total_[v] = L::fma(total_[v], factor[v], sums[v]);
  }

  static FASTDIFF_INLINE float* column(float* panel, int64_t row, int vector) {
    return panel + row * kPanel + vector * L::kLanes;
  }

  F top_[kVectors], total_[kVectors];
  float* sums_;    // (value_depth, kPanel)
  int64_t first_;  // the first query of the panel
};

/// Computes a unit, which is some panels of queries. The outer loop is over blocks of keys and the
/// inner one over panels, so that all panels but the first find the block in cache.
template <class Panel, class H>
FASTDIFF_INLINE void attend(H& head, float* scratch, int64_t unit) {
  const Attention& spec = head.spec;
  const int64_t size = unit_queries(spec), first = unit % query_blocks(spec) * size;
  alignas(64) float stack[kStackFloats];
  float* memory = attention_scratch(spec) == 0 ? stack : scratch + unit * unit_floats(spec);

  Panel panels[kManyQueries / Panel::kPanel];
  int count = 0;
  for (int64_t q = first; q < first + size && q < spec.queries; q += Panel::kPanel) {
    panels[count++].begin(head, q, memory);
    memory += Panel::kPanel * spec.query_floats;
  }
  for (int64_t key = 0; key < spec.keys; key += Panel::kKeys) {
    const int64_t keys = spec.keys - key < Panel::kKeys ? spec.keys - key : Panel::kKeys;
    for (int i = 0; i < count; ++i) panels[i].attend(head, key, keys);
  }
  for (int i = 0; i < count; ++i) panels[i].end(head);
}

}  // namespace fastdiff::network
