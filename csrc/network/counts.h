// How many units each stage of a kernel has, and how many floats of scratch memory they share.
//
// Nothing here depends on the level or on the threads, and how an image is divided does not depend
// on the batch either: so a row has the same bits in any company.
#pragma once

#include "fastdiff/scalar.h"
#include "specs.h"

namespace fastdiff::network {

FASTDIFF_INLINE int64_t divided_up(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

/// Pixels of a chunk, for which GroupNorm's sums are in float32: a quarter of an image, 16 to 64.
FASTDIFF_INLINE int64_t chunk_pixels(const GroupNorm& norm) {
  const int64_t quarter = divided_up(norm.pixels, 4);
  return quarter < 16 ? 16 : quarter > 64 ? 64 : quarter;
}
FASTDIFF_INLINE int64_t chunk_count(const GroupNorm& norm) {
  return divided_up(norm.pixels, chunk_pixels(norm));
}
/// Units of the stages: moments of chunks, scale and shift of images, application to chunks.
FASTDIFF_INLINE int64_t group_norm_units(const GroupNorm& norm, int stage) {
  return stage == 1 ? norm.images : norm.images * chunk_count(norm);
}
/// For each channel: two doubles and two floats of an image, two floats of a chunk.
FASTDIFF_INLINE int64_t group_norm_scratch(const GroupNorm& norm) {
  return norm.images * (6 + 2 * chunk_count(norm)) * norm.channels;
}

/// Pixels of a unit of LayerNorm: about 8192 floats.
FASTDIFF_INLINE int64_t unit_pixels(const LayerNorm& norm) {
  return norm.channels < 8192 ? 8192 / norm.channels : 1;
}
FASTDIFF_INLINE int64_t layer_norm_units(const LayerNorm& norm) {
  return norm.images * divided_up(norm.pixels, unit_pixels(norm));
}

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

/// Elements that a map computes at once, along its last axis.
constexpr int64_t kPiece = 256;

/// The pieces of the last axis are as equal as whole vectors allow.
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
/// Pieces of a unit: about 4096 elements.
FASTDIFF_INLINE int64_t unit_pieces(const Map& map) { return 4096 / piece_length(map); }
FASTDIFF_INLINE int64_t map_units(const Map& map) {
  return divided_up(piece_count(map), unit_pieces(map));
}

}  // namespace fastdiff::network
