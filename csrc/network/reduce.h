// Sums and extremes of rows.
#pragma once

#include "kind.h"
#include "math.h"
#include "operands.h"
#include "rows.h"

namespace fastdiff::network {

// A reduction is one line: its name in plans, what it begins with, what it takes of a number u, and
// how it joins two of these.
// clang-format off
#define FASTDIFF_REDUCTIONS(X)                                     \
  X(kSum, "sum", 0.0f, u, u + v)                                   \
  X(kSquares, "sum of squares", 0.0f, u * u, u + v)                \
  X(kMagnitudes, "sum of magnitudes", 0.0f, absolute<L>(u), u + v) \
  X(kLargest, "largest", -__builtin_inff(), u, maximum<L>(u, v))   \
  X(kSmallest, "smallest", __builtin_inff(), u, minimum<L>(u, v))  \
  X(kLargestMagnitude, "largest magnitude", 0.0f, absolute<L>(u), maximum<L>(u, v))
// clang-format on

#define FASTDIFF_ENUMERATOR(enumerator, name, neutral, of, join) enumerator,
#define FASTDIFF_NAME(enumerator, name, neutral, of, join) name,
enum class Reduction { FASTDIFF_REDUCTIONS(FASTDIFF_ENUMERATOR) };
/// By their enumerators.
constexpr const char* kReductionNames[] = {FASTDIFF_REDUCTIONS(FASTDIFF_NAME)};
#undef FASTDIFF_ENUMERATOR
#undef FASTDIFF_NAME

/// y[i] = a reduction of x[i, :], for each image. Either the elements of a row lie together or the
/// rows do: lanes go along what does.
struct Reduce {
  static constexpr const char* kName = "reduce";
  static constexpr int kStages = 1;
  using Specs = TypeList<Reduce>;

  float *x, *y;
  int64_t x_image, x_row, x_step, y_image;
  int64_t images, rows, channels;
  Reduction reduction = Reduction::kSum;

  template <class Fields>
  void describe(Fields& fields) {
    fields.vector("x", x, x_image);
    fields("x_row", x_row);
    fields("x_step", x_step);
    fields.vector("y", y, y_image);
    fields("images", images);
    fields("rows", rows);
    fields("channels", channels);
    fields("reduction", reduction);
  }
  template <class Builder>
  void build(Builder& node) const;
};

/// Rows of a unit, whole vectors of them at every level: about 8192 numbers.
FASTDIFF_INLINE int64_t unit_rows(const Reduce& reduce) {
  return divided_up(divided_up(8192, reduce.channels), 16) * 16;
}

template <class Builder>
void Reduce::build(Builder& node) const {
  node.stage(*this, 0, images * divided_up(rows, unit_rows(*this)));
}

template <class L>
struct Reductions {
  static void run(const Reduce& spec, float*, int64_t unit) {
    const int64_t size = unit_rows(spec), blocks = divided_up(spec.rows, size);
    const int64_t image = unit / blocks, first = unit % blocks * size;
    const int64_t rows = spec.rows - first < size ? spec.rows - first : size;
    const float* x = spec.x + image * spec.x_image + first * spec.x_row;
    float* y = spec.y + image * spec.y_image + first;
#define FASTDIFF_CASE(enumerator, name, neutral, of, join)           \
  case Reduction::enumerator:                                        \
    return reduce(                                                   \
        spec, x, rows, y, L::splat(neutral), [](F u) { return of; }, \
        [](F u, F v) { return join; });
    switch (spec.reduction) { FASTDIFF_REDUCTIONS(FASTDIFF_CASE) }
#undef FASTDIFF_CASE
  }

 private:
  using F = typename L::F;

  template <class Of, class Join>
  static FASTDIFF_INLINE void reduce(const Reduce& spec, const float* x, int64_t rows, float* y,
                                     F neutral, const Of& of, const Join& join) {
    if (spec.x_step == 1 || spec.channels == 1) {
      for (int64_t row = 0; row < rows; ++row) {
        y[row] = along(x + row * spec.x_row, spec.channels, neutral, of, join);
      }
      return;
    }
    for (int64_t row = 0; row < rows; row += L::kLanes) {
      const int64_t live = rows - row < L::kLanes ? rows - row : L::kLanes;
      const float* from = x + row;
      const auto vector = [&](int64_t c) { return of(load_live<L>(from + c * spec.x_step, live)); };
      store_live<L>(y + row, fold<L>(neutral, spec.channels, vector, join), live);
    }
  }

  /// Of one row, lanes along it.
  template <class Of, class Join>
  static FASTDIFF_INLINE float along(const float* x, int64_t channels, F neutral, const Of& of,
                                     const Join& join) {
    const int64_t whole = channels / L::kLanes, begin = whole * L::kLanes;
    const auto vector = [&](int64_t i) { return of(L::load(x + i * L::kLanes)); };
    F lanes = fold<L>(neutral, whole, vector, join);
    if (begin < channels) {
      lanes = join(lanes, of(load_or<L>(neutral, x + begin, channels - begin)));
    }
    return across<L>(lanes, join)[0];
  }
};

template <class A>
struct KernelsOf<Reduce, A> {
  static constexpr Stages<Reduce> stages = {{Reductions<typename A::L>::run}};
};

}  // namespace fastdiff::network
