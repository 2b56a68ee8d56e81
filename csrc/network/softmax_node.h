// Softmax along rows. Attention has its own, which never stores a score (softmax.h).
#pragma once

#include "kind.h"
#include "math.h"
#include "operands.h"
#include "rows.h"

namespace fastdiff::network {

/// y = e^(x - top) / sum of them, over the channels of each row; y may be x.
struct RowSoftmax {
  static constexpr const char* kName = "softmax";
  static constexpr int kStages = 1;
  using Specs = TypeList<RowSoftmax>;

  Pixels x, y;  // their pixels are rows
  int64_t images, rows, channels;

  template <class Fields>
  void describe(Fields& fields) {
    fields("x", x);
    fields("y", y);
    fields("images", images);
    fields("rows", rows);
    fields("channels", channels);
  }
  template <class Builder>
  void build(Builder& node) const;
};

/// Rows of a unit: about 4096 numbers.
FASTDIFF_INLINE int64_t unit_rows(const RowSoftmax& softmax) {
  return softmax.channels < 4096 ? 4096 / softmax.channels : 1;
}

template <class Builder>
void RowSoftmax::build(Builder& node) const {
  node.stage(*this, 0, images * divided_up(rows, unit_rows(*this)));
}

template <class L>
struct RowSoftmaxes {
  static void run(const RowSoftmax& spec, float*, int64_t unit) {
    const int64_t size = unit_rows(spec), blocks = divided_up(spec.rows, size);
    const int64_t image = unit / blocks, first = unit % blocks * size;
    for (int64_t row = first; row < first + size && row < spec.rows; ++row) {
      softmax(spec.x.data + image * spec.x.image + row * spec.x.pixel, spec.channels,
              spec.y.data + image * spec.y.image + row * spec.y.pixel);
    }
  }

 private:
  using F = typename L::F;

  /// A number that is none makes its power none, and so the sum and the whole row; so does infinity
  /// less itself.
  static FASTDIFF_INLINE void softmax(const float* x, int64_t channels, float* y) {
    const auto max = [](F a, F b) { return L::max(a, b); };
    const auto add = [](F a, F b) { return a + b; };
    const int64_t whole = channels / L::kLanes, begin = whole * L::kLanes, rest = channels - begin;
    const F least = L::splat(-__builtin_inff());
    F tops = fold<L>(least, whole, [&](int64_t i) { return L::load(x + i * L::kLanes); }, max);
    if (rest) tops = max(tops, load_or<L>(least, x + begin, rest));
    const F top = across<L>(tops, max);
    const auto power = [&](F v) { return exp2_negative<L>((v - top) * kLog2E); };
    F sums = fold<L>(
        F{}, whole,
        [&](int64_t i) {
          const F p = power(L::load(x + i * L::kLanes));
          L::store(y + i * L::kLanes, p);
          return p;
        },
        add);
    if (rest) {
      const F p = power(load_or<L>(least, x + begin, rest));
      L::store_part(y + begin, p, rest);
      sums += p;
    }
    const F inverse = 1.0f / across<L>(sums, add);
    for (int64_t c = 0; c < begin; c += L::kLanes) L::store(y + c, L::load(y + c) * inverse);
    if (rest) L::store_part(y + begin, L::load_part(y + begin, rest) * inverse, rest);
  }
};

template <class A>
struct KernelsOf<RowSoftmax, A> {
  static constexpr Stages<RowSoftmax> stages = {{RowSoftmaxes<typename A::L>::run}};
};

}  // namespace fastdiff::network
