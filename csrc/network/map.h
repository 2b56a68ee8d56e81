// Maps, which are short programs of element-wise operations.
//
// The kernel takes a piece of the last axis, runs the whole program on it step after step, and goes
// on to the next piece. All intermediate results of a piece stay in the first-level cache.
#pragma once

#include "map_spec.h"
#include "math.h"

namespace fastdiff::network {

/// The kernel of maps for the lane type L.
template <class L>
struct Maps {
  using F = typename L::F;

  /// Runs the pieces of one unit. Of the indices of a piece, that of the last axis but one changes
  /// fastest, then that of the piece within the last axis, then those of the other axes. A map that
  /// transposes thus comes back soon to the cache lines that it has read or written in part.
  static void run(const Map& map, float*, int64_t unit) {
    const int64_t length = piece_length(map), pieces = divided_up(map.shape[kLast], length);
    const int64_t fast = map.shape[kLast - 1], all = piece_count(map);
    int64_t index = unit * unit_pieces(map);
    const int64_t end = index + unit_pieces(map) < all ? index + unit_pieces(map) : all;
    while (index < end) {
      int64_t rest = index / fast, at[kMapRank];
      at[kLast - 1] = index % fast;
      at[kLast] = rest % pieces * length;
      rest /= pieces;
      for (int axis = kLast - 2; axis >= 0; rest /= map.shape[axis--]) {
        at[axis] = rest % map.shape[axis];
      }
      const float* x[kMapInputs];
      for (int i = 0; i < map.inputs; ++i) x[i] = map.x[i] + offset(at, map.x_strides[i]);
      float* y = map.y + offset(at, map.y_strides);
      const int64_t left = map.shape[kLast] - at[kLast], count = left < length ? left : length;
      for (int64_t i = at[kLast - 1]; i < fast && index < end; ++i, ++index) {
        piece(map, x, y, count);
        for (int k = 0; k < map.inputs; ++k) x[k] += map.x_strides[k][kLast - 1];
        y += map.y_strides[kLast - 1];
      }
    }
  }

 private:
  static constexpr int kLast = kMapRank - 1;

  static FASTDIFF_INLINE int64_t offset(const int64_t (&at)[kMapRank],
                                        const int64_t (&strides)[kMapRank]) {
    int64_t sum = 0;
    for (int axis = 0; axis < kMapRank; ++axis) sum += at[axis] * strides[axis];
    return sum;
  }

  /// Runs the program on `count` elements of the last axis. Steps work on whole vectors. They read
  /// x and write y directly where the elements are contiguous and fill whole vectors, and work on
  /// copies elsewhere.
  static FASTDIFF_INLINE void piece(const Map& map, const float* const (&x)[kMapInputs], float* y,
                                    int64_t count) {
    alignas(64) float copies[kMapInputs][kPiece], results[kMapSteps][kPiece];
    const float* operands[kMapInputs + kMapSteps];
    const int64_t padded = divided_up(count, L::kLanes) * L::kLanes;
    for (int i = 0; i < map.inputs; ++i) {
      const int64_t stride = map.x_strides[i][kLast];
      const bool direct = stride == 1 && count == padded;
      operands[i] = direct ? x[i] : gather(x[i], stride, count, padded, copies[i]);
    }
    const int64_t stride = map.y_strides[kLast];
    const float* result = operands[0];
    for (int i = 0; i < map.steps; ++i) {
      const bool direct = i + 1 == map.steps && stride == 1 && count == padded;
      float* to = direct ? y : results[i];
      const MapStep& s = map.program[i];
      const float* a = s.a < 0 ? nullptr : operands[s.a];
      step(s, a, s.b < 0 ? nullptr : operands[s.b], padded, to);
      operands[map.inputs + i] = result = to;
    }
    if (result != y) scatter(result, count, y, stride);
  }

  /// Copies `count` elements to contiguous memory and fills it up to `padded` with zeros.
  static FASTDIFF_INLINE const float* gather(const float* from, int64_t stride, int64_t count,
                                             int64_t padded, float* to) {
    if (stride == 1) {
      memcpy(to, from, size_t(count) * sizeof(float));
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = from[i * stride];
    }
    for (int64_t i = count; i < padded; ++i) to[i] = 0;
    return to;
  }

  static FASTDIFF_INLINE void scatter(const float* from, int64_t count, float* to, int64_t stride) {
    if (stride == 1) {
      memcpy(to, from, size_t(count) * sizeof(float));
    } else {
      for (int64_t i = 0; i < count; ++i) to[i * stride] = from[i];
    }
  }

  template <class Function>
  static FASTDIFF_INLINE void unary(const float* a, int64_t count, float* to, Function function) {
    for (int64_t i = 0; i < count; i += L::kLanes) L::store(to + i, function(L::load(a + i)));
  }
  template <class Function>
  static FASTDIFF_INLINE void binary(const float* a, const float* b, int64_t count, float* to,
                                     Function function) {
    for (int64_t i = 0; i < count; i += L::kLanes) {
      L::store(to + i, function(L::load(a + i), L::load(b + i)));
    }
  }

  static void step(const MapStep& s, const float* a, const float* b, int64_t count, float* to) {
#define FASTDIFF_CASE(enumerator, name, value) \
  case MapOp::enumerator:                      \
    return binary(a, b, count, to, [](F u, F v) { return value; });
#define FASTDIFF_UNARY_CASE(enumerator, name, value) \
  case MapOp::enumerator:                            \
    return unary(a, count, to, [](F u) { return value; });
    switch (s.op) {
      case MapOp::kConstant:
        for (int64_t i = 0; i < count; ++i) to[i] = s.constant;
        return;
        FASTDIFF_BINARY_OPERATIONS(FASTDIFF_CASE)
        FASTDIFF_UNARY_OPERATIONS(FASTDIFF_UNARY_CASE)
    }
#undef FASTDIFF_CASE
#undef FASTDIFF_UNARY_CASE
  }
};

}  // namespace fastdiff::network
