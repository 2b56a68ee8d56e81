// The arguments of the map kernel, and how its work is divided into units.
#pragma once

#include "kind.h"
#include "operands.h"
#include "operations.h"

namespace fastdiff::network {

constexpr int kMapRank = 5;  // the image and up to four axes
constexpr int kMapInputs = 8;
constexpr int kMapSteps = 24;

/// One operation of a Map. `a` and `b` number its operands: 0 to inputs - 1 are the map's inputs,
/// and inputs + i is the result of step i. An operand that the operation does not have is -1.
struct MapStep {
  MapOp op;
  int32_t a, b;
  float constant;
};

/// y = program(x_0, x_1, ...), element by element. A map without steps copies x_0.
struct Map {
  static constexpr int kStages = 1;

  int64_t shape[kMapRank];
  int32_t inputs, steps;
  const float* x[kMapInputs];
  int64_t x_strides[kMapInputs][kMapRank];
  float* y;
  int64_t y_strides[kMapRank];
  MapStep program[kMapSteps];
};

/// The most elements of the last axis that are computed at once.
constexpr int64_t kPiece = 256;

/// The length of the pieces of the last axis: as equal as whole vectors allow, at most kPiece.
FASTDIFF_INLINE int64_t piece_length(const Map& map) {
  const int64_t length = map.shape[kMapRank - 1];
  const int64_t even = divided_up(length, divided_up(length, kPiece));
  const int64_t vectors = divided_up(even, 16) * 16;
  return vectors < length ? vectors : length;
}
FASTDIFF_INLINE int64_t piece_count(const Map& map) {
  int64_t pieces = divided_up(map.shape[kMapRank - 1], piece_length(map));
  for (int axis = 0; axis < kMapRank - 1; ++axis) pieces *= map.shape[axis];
  return pieces;
}
/// The number of pieces of a unit, which make about 4096 elements.
FASTDIFF_INLINE int64_t unit_pieces(const Map& map) { return 4096 / piece_length(map); }
FASTDIFF_INLINE int64_t map_units(const Map& map) {
  return divided_up(piece_count(map), unit_pieces(map));
}

}  // namespace fastdiff::network
