// The arguments of the attention kernels, in float32 and with tiles, and how their work is divided
// into units.
#pragma once

#include "conv_spec.h"

namespace fastdiff::network {

/// y = softmax(q k^T * scale) v for each head of each image.
struct Attention {
  // In float32: copy the values, then compute the queries. With tiles: round keys and values, then
  // compute the queries.
  static constexpr int kStages = 4;

  Heads q, k, v, y;
  int64_t images, heads, queries, keys, depth, value_depth;
  float scale;
  const Rounded* rounded = nullptr;  // if not null, y is rounded and stored there instead
  // The floats that a unit keeps for each of its queries: the query and its sums. Set by
  // AttentionNode, since they depend on the algorithm.
  int64_t query_floats = 0;
  // If true, a query whose scores are all -infinity has NaN as its result, and else 0.
  bool nan_without_shares = false;
};

/// A unit keeps its queries and sums on the stack if they need no more floats than this, and in the
/// node's scratch memory otherwise.
constexpr int64_t kStackFloats = 32768;
/// The queries of a unit, which are whole panels at every instruction level. With many queries in a
/// unit, they share what is read of the keys; with few, there are units enough for all threads.
constexpr int64_t kManyQueries = 128, kFewQueries = 32;

FASTDIFF_INLINE int64_t unit_queries(const Attention& attention) {
  const bool on_stack = kManyQueries * attention.query_floats <= kStackFloats;
  return attention.queries >= 1024 && on_stack ? kManyQueries : kFewQueries;
}
/// The number of units of one head.
FASTDIFF_INLINE int64_t query_blocks(const Attention& attention) {
  return divided_up(attention.queries, unit_queries(attention));
}
FASTDIFF_INLINE int64_t attention_units(const Attention& attention) {
  return attention.images * attention.heads * query_blocks(attention);
}
FASTDIFF_INLINE int64_t unit_floats(const Attention& attention) {
  return unit_queries(attention) * attention.query_floats;
}
FASTDIFF_INLINE int64_t attention_scratch(const Attention& attention) {
  const int64_t floats = unit_floats(attention);
  return floats <= kStackFloats ? 0 : attention_units(attention) * floats;
}

/// The number of keys whose values one unit copies.
constexpr int64_t kCopiedKeys = 64;

/// Whether values are copied first (Attend::copy_values): enough queries read each of them to pay
/// for the copy, and the values of a head are not contiguous as they are given.
FASTDIFF_INLINE bool copies_values(const Attention& attention) {
  return attention.queries >= 64 && attention.v.token != attention.value_depth;
}
FASTDIFF_INLINE int64_t value_blocks(const Attention& attention) {
  return divided_up(attention.keys, kCopiedKeys);
}

/// One step of the bfloat16 tile product has 32 rows, 32 columns and 32 terms. kStepBytes is the
/// size of its A, and of its B.
constexpr int64_t kTileSide = 32, kStepBytes = 2 * kTileBytes;

/// How many steps cover the keys, the depth of queries and keys, and the channels of the values.
FASTDIFF_INLINE int64_t key_groups(const Attention& attention) {
  return divided_up(attention.keys, kTileSide);
}
FASTDIFF_INLINE int64_t depth_steps(const Attention& attention) {
  return divided_up(attention.depth, kTileSide);
}
FASTDIFF_INLINE int64_t value_steps(const Attention& attention) {
  return divided_up(attention.value_depth, kTileSide);
}
/// The bytes of 32 keys and their values in bfloat16.
FASTDIFF_INLINE int64_t group_bytes(const Attention& attention) {
  return (depth_steps(attention) + value_steps(attention)) * kStepBytes;
}
/// The `query_floats` of the tile kernels: the query in bfloat16, and its sums in float32.
FASTDIFF_INLINE int64_t tile_query_floats(const Attention& attention) {
  return (depth_steps(attention) + 2 * value_steps(attention)) * kTileSide / 2;
}

}  // namespace fastdiff::network
