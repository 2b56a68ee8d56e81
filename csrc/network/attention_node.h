// Attention as a node of a plan, computed in float32 or with tiles of bfloat16.
#pragma once

#include <string>

#include "attention.h"
#include "attention_spec.h"
#include "tile_attention.h"

namespace fastdiff::network {

/// What Python tells of an attention, and the stages that it becomes. `algorithm` is kDirect
/// (float32) or kTiles (bfloat16).
struct AttentionNode {
  static constexpr const char* kName = "attention";
  using Specs = TypeList<Attention>;

  Attention attention = {};
  Algorithm algorithm = Algorithm::kDirect;

  template <class Fields>
  void describe(Fields& fields) {
    fields("q", attention.q);
    fields("k", attention.k);
    fields("v", attention.v);
    fields("y", attention.y);
    fields("images", attention.images);
    fields("heads", attention.heads);
    fields("queries", attention.queries);
    fields("keys", attention.keys);
    fields("depth", attention.depth);
    fields("value_depth", attention.value_depth);
    fields("scale", attention.scale);
    fields.optional("nan_without_shares", attention.nan_without_shares);
    fields.optional("algorithm", algorithm);
  }

  template <class Builder>
  void build(Builder& node) const {
    const bool tiles = algorithm == Algorithm::kTiles;
    node.require(tiles || algorithm == Algorithm::kDirect,
                 std::string("expected direct or tiles, got ") + kAlgorithmNames[int(algorithm)]);
    Attention spec = attention;
    const int64_t heads = spec.images * spec.heads;
    const double pairs = double(heads) * double(spec.queries) * double(spec.keys);
    node.flops = 2.0 * pairs * double(spec.depth + spec.value_depth);
    spec.query_floats = tiles ? tile_query_floats(spec) : spec.depth + spec.value_depth;
    int64_t copied_floats = 0;
    if (tiles) {
      const int64_t groups = heads * key_groups(spec);
      copied_floats = groups * group_bytes(spec) / 4;
      node.stage(spec, 2, groups);
    } else if (copies_values(spec)) {
      copied_floats = heads * spec.keys * spec.value_depth;
      node.stage(spec, 0, heads * value_blocks(spec));
    }
    node.stage(spec, tiles ? 3 : 1, attention_units(spec));
    node.scratch_floats = attention_scratch(spec) + copied_floats;
  }
};

template <class A>
struct KernelsOf<Attention, A> {
  using Exact = Attend<typename A::L>;
  using InTiles = AttendTiles<typename A::L, typename A::T>;
  static constexpr Stages<Attention> stages = {
      {Exact::copy_values, Exact::run, InTiles::round_keys, InTiles::run}};
};

}  // namespace fastdiff::network
