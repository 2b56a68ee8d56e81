// Attention: what its kernels are told, in float32 or in tiles, and how its work is divided.
#pragma once

#include "conv_spec.h"

namespace fastdiff::network {

/// y = softmax(q k^T * scale) v for each head of each image.
struct Attention {
  static constexpr int kStages =
      4;  // values copied, queries; in tiles keys and values rounded, queries

  Heads q, k, v, y;
  int64_t images, heads, queries, keys, depth, value_depth;
  float scale;
  const Rounded* rounded = nullptr;
  int64_t query_floats = 0;  // that a unit keeps of a query: it and its sums; see attention_node.h
};

/// What a unit of attention keeps of its queries and sums lies on its stack up to this size.
constexpr int64_t kStackFloats = 32768;
/// Queries of a unit, whole panels of them at every level: many share what they read of the keys,
/// few leave units for all threads.
constexpr int64_t kManyQueries = 128, kFewQueries = 32;

FASTDIFF_INLINE int64_t unit_queries(const Attention& attention) {
  const bool on_stack = kManyQueries * attention.query_floats <= kStackFloats;
  return attention.queries >= 1024 && on_stack ? kManyQueries : kFewQueries;
}
/// Units of a head.
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

/// Keys whose values a unit copies, where many queries read them and heads lie side by side.
constexpr int64_t kCopiedKeys = 64;

FASTDIFF_INLINE bool copies_values(const Attention& attention) {
  return attention.queries >= 64 && attention.v.token != attention.value_depth;
}
FASTDIFF_INLINE int64_t value_blocks(const Attention& attention) {
  return divided_up(attention.keys, kCopiedKeys);
}

/// A step of bfloat16 multiplies as many rows as columns as terms; bytes of its A, and of its B.
constexpr int64_t kTileSide = 32, kStepBytes = 2 * kTileBytes;

/// Steps that cover the keys of an attention, its depth and the channels of its values.
FASTDIFF_INLINE int64_t key_groups(const Attention& attention) {
  return divided_up(attention.keys, kTileSide);
}
FASTDIFF_INLINE int64_t depth_steps(const Attention& attention) {
  return divided_up(attention.depth, kTileSide);
}
FASTDIFF_INLINE int64_t value_steps(const Attention& attention) {
  return divided_up(attention.value_depth, kTileSide);
}
/// Bytes of 32 keys and their values, rounded.
FASTDIFF_INLINE int64_t group_bytes(const Attention& attention) {
  return (depth_steps(attention) + value_steps(attention)) * kStepBytes;
}
/// What a unit keeps of a query in tiles: it, in bfloat16, and its sums.
FASTDIFF_INLINE int64_t tile_query_floats(const Attention& attention) {
  return (depth_steps(attention) + 2 * value_steps(attention)) * kTileSide / 2;
}

}  // namespace fastdiff::network
