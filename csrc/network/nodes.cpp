// From a kernel's arguments to the stages of a node.
#include <algorithm>
#include <limits>

#include "counts.h"
#include "layout.h"
#include "plan.h"
#include "simplify.h"
#include "tile_math.h"

namespace fastdiff::network {
namespace {

// Defaults that did well over the layers of U-Nets and DiTs; the tuner tries others.
constexpr int64_t kRowBlock = 96, kPanelBlock = 2, kTileBlock = 4;
// Tiles whose domain and products stay in the last level of cache.
constexpr int64_t kDomainFloats = 2 << 20;

template <class Spec>
auto rounded_of(Spec& spec, int) -> decltype(&spec.rounded) {
  return &spec.rounded;
}
template <class Spec>
auto rounded_of(Spec& spec, int) -> decltype(&spec.conv.rounded) {
  return &spec.conv.rounded;
}
template <class Spec>
const Rounded** rounded_of(Spec&, long) {  // it cannot
  return nullptr;
}

/// A stage of `units` calls of `unit`, with a copy of `spec`.
template <class Spec>
Stage stage(const Spec& spec, Unit<Spec> unit, int64_t units) {
  struct Bound {
    Spec spec;
    Unit<Spec> unit;
  };
  const auto call = [](const void* bound, float* scratch, int64_t i) {
    const auto& self = *static_cast<const Bound*>(bound);
    self.unit(self.spec, scratch, i);
  };
  const auto bound = std::make_shared<Bound>(Bound{spec, unit});
  return {bound, call, units, rounded_of(bound->spec, 0)};
}

void add_winograd(Plan& plan, std::string name, double flops, const Conv& conv, int m) {
  const Level& level = plan.level();
  const auto& units = m == 2 ? level.winograd2 : level.winograd4;
  const int64_t points = (m + 2) * (m + 2);
  const int64_t down = divided_up(conv.out_height, m), across = divided_up(conv.out_width, m);
  const int64_t columns = divided_up(conv.out_channels, level.panel) * level.panel;
  const int64_t tiles = conv.images * down * across;
  const int64_t most = std::max<int64_t>(64, kDomainFloats / (points * (conv.channels + columns)));
  const int64_t chunk = divided_up(tiles, divided_up(tiles, most));
  const int64_t blocks = divided_up(columns / level.panel, conv.panel_block);

  Node node{std::move(name), flops, {}};
  int64_t scratch = 0;
  for (int64_t first = 0; first < tiles; first += chunk) {
    const int64_t count = std::min(chunk, tiles - first);
    const Winograd spec{conv, down, across, first, count, columns};
    node.stages.push_back(stage(spec, units[0], count));
    node.stages.push_back(stage(spec, units[1], points * blocks));
    node.stages.push_back(stage(spec, units[2], count));
    scratch = std::max(scratch, points * (domain_stride(spec) + product_stride(spec)));
  }
  plan.add(std::move(node), scratch);
}

/// The same, of each of the 2 x 2 phases of y: their weights and their scratch memory follow each
/// other.
Stage phases_stage(const TileConv& spec, Unit<TileConv> unit, int64_t units) {
  struct Bound {
    TileConv spec;
    Unit<TileConv> unit;
    int64_t units;
  };
  const auto call = [](const void* bound, float* scratch, int64_t i) {
    const auto& self = *static_cast<const Bound*>(bound);
    const int64_t phase = i / self.units, channels = self.spec.conv.out_channels;
    TileConv part = self.spec;
    part.conv.phase_y = int(phase / 2), part.conv.phase_x = int(phase % 2);
    part.weights += phase * tile_weight_bytes(part);
    if (part.quantization.outputs) {
      part.quantization.outputs += phase * channels;
      part.quantization.zeros += phase * channels;
    }
    self.unit(part, scratch + phase * gathered_floats(part), i % self.units);
  };
  const auto bound = std::make_shared<Bound>(Bound{spec, unit, units});
  return {bound, call, 4 * units, &bound->spec.conv.rounded};
}

void add_tiles(Plan& plan, std::string name, double flops, Conv conv,
               const Quantization* quantization, bool ahead) {
  if (by_phases(conv)) {
    conv.upsample = 0, conv.phases = 2;
    conv.height /= 2, conv.width /= 2, conv.out_height /= 2, conv.out_width /= 2;
    conv.kernel_height = conv.kernel_width = 2;
  }
  const int64_t further = conv.phases - 1;  // that the last phase begins to read
  Rounded input = {};
  input.images = conv.images;
  input.height = (conv.out_height - 1) * conv.stride + conv.kernel_height + further;
  input.width = (conv.out_width - 1) * conv.stride + conv.kernel_width + further;
  input.pad_top = conv.pad_top, input.pad_left = conv.pad_left;
  input.image_width = conv.width;
  input.element = quantization ? 1 : 2;
  input.depth = divided_up(conv.channels, tile_depth(input.element)) * tile_depth(input.element);
  if (quantization) input.factors = quantization->inputs, input.zero = quantization->zero;
  const bool padded = input.height > conv.height || input.width > conv.width;

  TileConv spec = {};
  spec.conv = conv;
  spec.weights = reinterpret_cast<const uint8_t*>(conv.weights);
  if (quantization) spec.quantization = *quantization;
  spec.input = plan.round(input, rounded_bytes(input, conv.stride), ahead);
  spec.gathers = conv.out_height > 1 && conv.out_width % kTileRows != 0;
  spec.tile_block = conv.row_block > 0 ? divided_up(conv.row_block, kTileRows) : kTileBlock;
  spec.tile_block = std::min(spec.tile_block, kMostRows / kTileRows);
  const auto& units = quantization ? plan.level().int8 : plan.level().tiles;
  const int64_t blocks = divided_up(row_tiles(spec), spec.tile_block);
  const int64_t panels = divided_up(conv.out_channels, kTilePanel);

  Node node{std::move(name), flops, {}};
  if (!ahead || padded) {
    node.stages.push_back(stage(spec, units[ahead ? 1 : 0], input.images * input.height));
  }
  const auto add = conv.phases == 2 ? phases_stage : stage<TileConv>;
  if (spec.gathers) node.stages.push_back(add(spec, units[2], row_tiles(spec)));
  node.stages.push_back(add(spec, units[3], blocks * divided_up(panels, conv.panel_block)));
  plan.add(std::move(node), conv.phases * conv.phases * gathered_floats(spec));
}

}  // namespace

void add_conv(Plan& plan, std::string name, Conv conv, Algorithm algorithm,
              const Quantization& quantization, bool ahead) {
  const int64_t taps = conv.kernel_height * conv.kernel_width;
  const int64_t rows = conv.images * conv.out_height * conv.out_width;
  const double flops =
      2.0 * double(rows) * double(taps * conv.channels) * double(conv.out_channels);
  conv.zeros = plan.zeros(conv.channels);
  if (conv.panel_block <= 0) conv.panel_block = kPanelBlock;
  switch (algorithm) {
    case Algorithm::kWinograd2:
      return add_winograd(plan, std::move(name), flops, conv, 2);
    case Algorithm::kWinograd4:
      return add_winograd(plan, std::move(name), flops, conv, 4);
    case Algorithm::kTiles:
      return add_tiles(plan, std::move(name), flops, conv, nullptr, ahead);
    case Algorithm::kInt8:
      return add_tiles(plan, std::move(name), flops, conv, &quantization, ahead);
    case Algorithm::kDirect:
      break;
  }
  conv.row_block = conv.row_block > 0 ? std::min(conv.row_block, kMostRows) : kRowBlock;
  const int64_t panels = divided_up(conv.out_channels, plan.level().panel);
  const int64_t units = divided_up(rows, conv.row_block) * divided_up(panels, conv.panel_block);
  plan.add({std::move(name), flops, {stage(conv, plan.level().conv, units)}}, 0);
}

void add_group_norm(Plan& plan, std::string name, const GroupNorm& norm) {
  Node node{std::move(name), 0, {}};
  for (int i = 0; i < 3; ++i) {
    node.stages.push_back(stage(norm, plan.level().group_norm[i], group_norm_units(norm, i)));
  }
  plan.add(std::move(node), group_norm_scratch(norm));
}

void add_layer_norm(Plan& plan, std::string name, const LayerNorm& norm) {
  plan.add({std::move(name), 0, {stage(norm, plan.level().layer_norm, layer_norm_units(norm))}}, 0);
}

void add_attention(Plan& plan, std::string name, Attention attention, Algorithm algorithm) {
  const int64_t heads = attention.images * attention.heads;
  const double pairs = double(heads) * double(attention.queries) * double(attention.keys);
  Node node{std::move(name), 2.0 * pairs * double(attention.depth + attention.value_depth), {}};
  const bool tiles = algorithm == Algorithm::kTiles;
  const auto& units = tiles ? plan.level().tile_attention : plan.level().attention;
  int64_t copied_floats = 0;
  attention.query_floats = attention.depth + attention.value_depth;
  if (tiles) {
    const int64_t groups = heads * key_groups(attention);
    attention.query_floats = tile_query_floats(attention);
    copied_floats = groups * group_bytes(attention) / 4;
    node.stages.push_back(stage(attention, units[0], groups));
  } else if (copies_values(attention)) {
    copied_floats = heads * attention.keys * attention.value_depth;
    node.stages.push_back(stage(attention, units[0], heads * value_blocks(attention)));
  }
  node.stages.push_back(stage(attention, units[1], attention_units(attention)));
  plan.add(std::move(node), attention_scratch(attention) + copied_floats);
}

void add_map(Plan& plan, std::string name, const Map& given) {
  const Map map = simplified(given);
  plan.add({std::move(name), 0, {stage(map, plan.level().map, map_units(map))}}, 0);
}

namespace {

/// A row of the table, from its element `first` on.
void copy(const Gather& spec, int64_t first, float* to) {
  if (!spec.halves) {
    std::copy_n(static_cast<const float*>(spec.table) + first, spec.channels, to);
    return;
  }
  const auto* from = static_cast<const uint16_t*>(spec.table) + first;
  std::transform(from, from + spec.channels, to, Bfloat16::widen);
}

}  // namespace

void add_gather(Plan& plan, std::string name, const Gather& gather) {
  // A label that is not there gives NaN, which the sampler reports; nothing beside it is read.
  const Unit<Gather> unit = [](const Gather& spec, float*, int64_t image) {
    const int64_t label = spec.labels[image * spec.label_image];
    float* to = spec.y + image * spec.y_image;
    if (label < 0 || label >= spec.rows) {
      std::fill_n(to, spec.channels, std::numeric_limits<float>::quiet_NaN());
    } else {
      copy(spec, label * spec.channels, to);
    }
  };
  plan.add({std::move(name), 0, {stage(gather, unit, gather.images)}}, 0);
}

void add_observe(Plan& plan, std::string name, const Observe& observe) {
  const Unit<Observe> unit = [](const Observe& spec, float*, int64_t) {
    for (int64_t image = 0; image < spec.images; ++image) {
      for (int64_t p = 0; p < spec.pixels; ++p) {
        const float* x = spec.x.data + image * spec.x.image + p * spec.x.pixel;
        for (int64_t c = 0; c < spec.channels; ++c) {
          spec.low[c] = std::min(spec.low[c], x[c]);
          spec.high[c] = std::max(spec.high[c], x[c]);
        }
      }
    }
  };
  plan.add({std::move(name), 0, {stage(observe, unit, 1)}}, 0);
}

}  // namespace fastdiff::network
