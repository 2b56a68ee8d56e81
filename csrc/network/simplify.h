// Simplifies maps: joins axes and puts the axis that suits vectors best last. This runs once, when
// a plan is built, and is not compiled for each instruction level.
#pragma once

#include "map_spec.h"

namespace fastdiff::network {

/// Copies axis `from` of `source` to axis `to` of `map`.
inline void copy_axis(Map& map, int to, const Map& source, int from) {
  map.shape[to] = source.shape[from];
  map.y_strides[to] = source.y_strides[from];
  for (int i = 0; i < map.inputs; ++i) map.x_strides[i][to] = source.x_strides[i][from];
}

/// Whether two axes can be joined: in every operand, one step along `outer` goes as far as all
/// steps along `inner`.
inline bool continues(const Map& source, int outer, const Map& map, int inner) {
  const int64_t length = map.shape[inner];
  bool same = source.y_strides[outer] == length * map.y_strides[inner];
  for (int i = 0; i < map.inputs; ++i) {
    same = same && source.x_strides[i][outer] == length * map.x_strides[i][inner];
  }
  return same;
}

/// Returns the axis that suits vectors best: the one along which most operands are contiguous or
/// constant, and the longest of those. An axis shorter than kShort is taken only if all are.
inline int best_last_axis(const Map& map) {
  constexpr int64_t kShort = 16;
  const auto merit = [&map](int axis) {
    int64_t near = map.y_strides[axis] == 1;
    for (int i = 0; i < map.inputs; ++i) {
      near += map.x_strides[i][axis] == 0 || map.x_strides[i][axis] == 1;
    }
    return map.shape[axis] < kShort ? -1 : near;
  };
  int best = kMapRank - 1;
  for (int axis = 0; axis < kMapRank; ++axis) {
    const bool longer = map.shape[axis] > map.shape[best];
    if (merit(axis) > merit(best) || (merit(axis) == merit(best) && longer)) best = axis;
  }
  return best;
}

/// Returns a map that computes the same and runs faster: axes that can be joined are, axes of
/// length 1 are moved to the front, and the axis that suits vectors best is last.
inline Map simplified(const Map& given) {
  Map joined = given;
  int first = kMapRank;  // the axes of `joined` from here on are complete
  for (int axis = kMapRank - 1; axis >= 0; --axis) {
    if (given.shape[axis] == 1) continue;
    if (first < kMapRank && continues(given, axis, joined, first)) {
      joined.shape[first] *= given.shape[axis];
    } else {
      copy_axis(joined, --first, given, axis);
    }
  }
  for (int axis = 0; axis < first; ++axis) joined.shape[axis] = 1;
  Map map = joined;
  const int last = best_last_axis(joined);
  for (int axis = last; axis + 1 < kMapRank; ++axis) copy_axis(map, axis, joined, axis + 1);
  copy_axis(map, kMapRank - 1, joined, last);
  return map;
}

}  // namespace fastdiff::network
