// Convolutions as nodes of a plan. Each algorithm has stages of its own.
#pragma once

#include <algorithm>
#include <optional>
#include <string>

#include "conv.h"
#include "conv_spec.h"
#include "tiles.h"
#include "winograd.h"

namespace fastdiff::network {

// Block sizes that were good over the layers of U-Nets and DiTs. Tuning tries others.
constexpr int64_t kRowBlock = 96, kPanelBlock = 2, kTileBlock = 4;
// The Winograd domain and products of the tiles that are computed together have at most this many
// floats, so that they stay in the last-level cache.
constexpr int64_t kDomainFloats = 2 << 20;

/// What Python tells of a convolution, and the stages that it becomes.
///
/// A block size of 0 is replaced by a default. `quantization` is given for kInt8 and only then.
/// `ahead` is for kTiles and kInt8: the previous node computes exactly x, and is made to store it
/// rounded, so that this node has nothing to round.
struct ConvNode {
  static constexpr const char* kName = "conv";
  using Specs = TypeList<Conv, Winograd, TileConv>;

  Conv conv = {};
  Algorithm algorithm = Algorithm::kDirect;
  std::optional<Quantization> quantization;
  bool ahead = false;

  template <class Fields>
  void describe(Fields& fields) {
    conv.kernel_height = conv.kernel_width = conv.stride = 1;
    fields("x", conv.x);
    fields("y", conv.y);
    fields("images", conv.images);
    fields.pair("size", conv.height, conv.width);
    fields("channels", conv.channels);
    fields.pair("out_size", conv.out_height, conv.out_width);
    fields("out_channels", conv.out_channels);
    fields("weights", conv.weights);
    fields.optional_pair("kernel", conv.kernel_height, conv.kernel_width);
    fields.optional("stride", conv.stride);
    fields.optional_pair("padding", conv.pad_top, conv.pad_left);
    fields.optional("upsample", conv.upsample);
    fields.optional("bias", conv.epilogue.bias);
    fields.optional("shift", conv.epilogue.shift);
    fields.optional("activation", conv.epilogue.activation);
    fields.optional("scale", conv.epilogue.scale);
    fields.optional("residual", conv.epilogue.residual);
    fields.optional("algorithm", algorithm);
    fields.optional_pair("blocks", conv.row_block, conv.panel_block);
    fields.optional("quantization", quantization);
    fields.optional("ahead", ahead);
  }

  template <class Builder>
  void build(Builder& node) const {
    check(node);
    Conv spec = conv;
    const int64_t rows = conv.images * conv.out_height * conv.out_width;
    const int64_t terms = conv.kernel_height * conv.kernel_width * conv.channels;
    node.flops = 2.0 * double(rows) * double(terms) * double(conv.out_channels);
    spec.zeros = node.plan.zeros(conv.channels);
    if (spec.panel_block <= 0) spec.panel_block = kPanelBlock;
    if (winograd()) return build_winograd(node, spec);
    if (narrow()) return build_tiles(node, spec);
    spec.row_block = spec.row_block > 0 ? std::min(spec.row_block, kMostRows) : kRowBlock;
    const int64_t panels = divided_up(conv.out_channels, node.level().panel);
    node.stage(spec, 0, divided_up(rows, spec.row_block) * divided_up(panels, spec.panel_block));
  }

 private:
  bool winograd() const {
    return algorithm == Algorithm::kWinograd2 || algorithm == Algorithm::kWinograd4;
  }
  bool integers() const { return algorithm == Algorithm::kInt8; }
  bool narrow() const { return integers() || algorithm == Algorithm::kTiles; }

  template <class Builder>
  void check(Builder& node) const {
    node.require(conv.images > 0 && conv.channels > 0 && conv.out_channels > 0,
                 "expected something to do");
    node.require(conv.stride > 0 && conv.kernel_height > 0 && conv.kernel_width > 0,
                 "expected a stride and kernel");
    node.require(
        !winograd() || (conv.kernel_height == 3 && conv.kernel_width == 3 && conv.stride == 1),
        "Winograd's algorithm takes 3 x 3 kernels of stride 1");
    const int64_t terms = conv.channels * conv.kernel_height * conv.kernel_width;
    node.require(quantization.has_value() == integers(),
                 "int8 and no other algorithm takes a quantization");
    node.require(!integers() || terms <= kMostInt8Terms, "too many terms for 32-bit sums");
    node.require(!integers() || (quantization->zero >= 0 && quantization->zero <= 255),
                 "expected 0 to be one of 0 to 255");
    if (!ahead) return;
    node.require(narrow(), std::string("no input of ") + kAlgorithmNames[int(algorithm)] +
                               " is rounded ahead");
    const bool whole = conv.channels % tile_depth(integers() ? 1 : 2) == 0;
    const bool inside = conv.out_height + conv.kernel_height > conv.height + conv.pad_top &&
                        conv.out_width + conv.kernel_width > conv.width + conv.pad_left;
    node.require(whole && inside && conv.stride == 1 && (!conv.upsample || by_phases(conv)),
                 "its input cannot be rounded ahead, pixel by pixel and in whole tiles");
    node.require(node.plan.rounds(), "the node before it rounds nothing");
  }

  template <class Builder>
  void build_winograd(Builder& node, const Conv& spec) const {
    const int m = algorithm == Algorithm::kWinograd2 ? 2 : 4, first_stage = m == 2 ? 0 : 3;
    const int64_t points = (m + 2) * (m + 2), panel = node.level().panel;
    const int64_t down = divided_up(spec.out_height, m), across = divided_up(spec.out_width, m);
    const int64_t columns = divided_up(spec.out_channels, panel) * panel;
    const int64_t tiles = spec.images * down * across;
    const int64_t most =
        std::max<int64_t>(64, kDomainFloats / (points * (spec.channels + columns)));
    const int64_t chunk = divided_up(tiles, divided_up(tiles, most));
    const int64_t blocks = divided_up(columns / panel, spec.panel_block);
    for (int64_t first = 0; first < tiles; first += chunk) {
      const int64_t count = std::min(chunk, tiles - first);
      const Winograd part{spec, down, across, first, count, columns};
      node.stage(part, first_stage, count);
      node.stage(part, first_stage + 1, points * blocks);
      node.stage(part, first_stage + 2, count);
      const int64_t floats = points * (domain_stride(part) + product_stride(part));
      node.scratch_floats = std::max(node.scratch_floats, floats);
    }
  }

  template <class Builder>
  void build_tiles(Builder& node, Conv reads) const {
    if (by_phases(reads)) {
      reads.upsample = 0, reads.phases = 2;
      reads.height /= 2, reads.width /= 2, reads.out_height /= 2, reads.out_width /= 2;
      reads.kernel_height = reads.kernel_width = 2;
    }
    const Rounded input = rounded_input(reads);
    TileConv spec = {};
    spec.conv = reads;
    spec.weights = reinterpret_cast<const uint8_t*>(reads.weights);
    if (quantization) spec.quantization = *quantization;
    spec.input = node.plan.round(input, rounded_bytes(input, reads.stride), ahead);
    spec.gathers = reads.out_height > 1 && reads.out_width % kTileRows != 0;
    spec.tile_block = reads.row_block > 0 ? divided_up(reads.row_block, kTileRows) : kTileBlock;
    spec.tile_block = std::min(spec.tile_block, kMostRows / kTileRows);

    const int round = integers() ? 4 : 0, pad = round + 1, gather = round + 2, multiply = round + 3;
    const bool padded = input.height > reads.height || input.width > reads.width;
    if (!ahead || padded) node.stage(spec, ahead ? pad : round, input.images * input.height);
    const int64_t phases = reads.phases * reads.phases;
    const int64_t panels = divided_up(reads.out_channels, kTilePanel);
    const int64_t blocks = divided_up(row_tiles(spec), spec.tile_block);
    if (spec.gathers) node.stage_of_parts(spec, gather, row_tiles(spec), phases, phase_of);
    node.stage_of_parts(spec, multiply, blocks * divided_up(panels, reads.panel_block), phases,
                        phase_of);
    node.scratch_floats = phases * gathered_floats(spec);
  }

  Rounded rounded_input(const Conv& reads) const {
    // How many pixels further on the last phase begins to read.
    const int64_t further = reads.phases - 1;
    Rounded input = {};
    input.images = reads.images;
    input.height = (reads.out_height - 1) * reads.stride + reads.kernel_height + further;
    input.width = (reads.out_width - 1) * reads.stride + reads.kernel_width + further;
    input.pad_top = reads.pad_top, input.pad_left = reads.pad_left;
    input.image_width = reads.width;
    input.element = integers() ? 1 : 2;
    const int64_t depth = tile_depth(input.element);
    input.depth = divided_up(reads.channels, depth) * depth;
    if (quantization) input.factors = quantization->inputs, input.zero = quantization->zero;
    return input;
  }

  /// Changes `spec` and `scratch` to those of one of the 2 x 2 phases of y (by_phases). The phases'
  /// weights follow each other in memory, and so do their parts of the scratch memory.
  static void phase_of(TileConv& spec, float*& scratch, int64_t phase) {
    scratch += phase * gathered_floats(spec);
    spec.conv.phase_y = int(phase / 2), spec.conv.phase_x = int(phase % 2);
    spec.weights += phase * tile_weight_bytes(spec);
    if (spec.quantization.outputs) {
      spec.quantization.outputs += phase * spec.conv.out_channels;
      spec.quantization.zeros += phase * spec.conv.out_channels;
    }
  }
};

}  // namespace fastdiff::network
