// fastdiff._native.NetworkPlan. Addresses are integers: whoever builds a plan keeps the memory.
#include "network.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <iterator>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../cpu/dispatch.h"
#include "../network/layout.h"
#include "../network/operations.h"
#include "../network/pack.h"
#include "../network/plan.h"
#include "array.h"

namespace py = pybind11;

namespace fastdiff {
namespace {

using namespace network;

using Address = uintptr_t;
using PixelsArg = std::tuple<Address, int64_t, int64_t>;
using PerImageArg = std::tuple<Address, int64_t>;
using HeadsArg = std::tuple<Address, int64_t, int64_t, int64_t>;
using StridedArg = std::tuple<Address, std::vector<int64_t>>;
using Size = std::pair<int64_t, int64_t>;
using QuantizationArg = std::tuple<Address, Address, Address, int32_t>;  // as in specs.h

float* floats(Address address) { return reinterpret_cast<float*>(address); }

Pixels pixels(const PixelsArg& arg) {
  return {floats(std::get<0>(arg)), std::get<1>(arg), std::get<2>(arg)};
}
PerImage per_image(const std::optional<PerImageArg>& arg) {
  return arg ? PerImage{floats(std::get<0>(*arg)), std::get<1>(*arg)} : PerImage{};
}
Heads heads_of(const HeadsArg& arg) {
  return {floats(std::get<0>(arg)), std::get<1>(arg), std::get<2>(arg), std::get<3>(arg)};
}

void require(bool holds, const std::string& message) {
  if (!holds) throw Error{ErrorKind::kInvalidArgument, message};
}

void require_threads(int threads) {
  require(threads >= 1, "threads must be at least 1, got " + std::to_string(threads));
}

/// The position of `name` among `names`, which are those of an enumeration in its order.
template <class Names>
int index_of(const Names& names, const std::string& name, const char* what) {
  std::string known;
  int i = 0;
  for (const char* each : names) {
    if (name == each) return i;
    known += (i++ ? ", " : "") + std::string(each);
  }
  throw Error{ErrorKind::kInvalidArgument,
              std::string("unknown ") + what + " " + name + "; there are: " + known};
}

constexpr const char* kAlgorithms[] = {"direct", "winograd2", "winograd4", "tiles", "int8"};
Activation activation_of(const std::string& name) {
  return Activation(index_of(kActivationNames, name, "activation"));
}

const Level& find(const std::string& name) {
  for (const Level* level : network::levels()) {
    if (name == level->name) {
      require(level->supported(), "this CPU lacks " + std::string(level->needs));
      return *level;
    }
  }
  throw Error{ErrorKind::kInvalidArgument, "this build has no CPU level " + name};
}

/// The level called `name`; without a name, the best that this CPU supports, but none wider than
/// the one that the other kernels use.
const Level& usable(const std::string& name) {
  if (!name.empty()) return find(name);
  const std::string widest = cpu::active_level().name;
  const Level* best = &kPortable;
  for (const Level* level : network::levels()) {
    const bool within = widest == "avx512" || widest == level->name || level == &kPortable;
    if (within && level->supported()) best = level;
  }
  return *best;
}

void conv(Plan& plan, const std::string& name, const PixelsArg& x, const PixelsArg& y,
          int64_t images, Size size, int64_t channels, Size out_size, int64_t out_channels,
          Address weights, std::pair<int, int> kernel, int stride, std::pair<int, int> padding,
          bool upsample, Address bias, const std::optional<PerImageArg>& shift,
          const std::string& activation, const std::optional<PerImageArg>& scale,
          const std::optional<PixelsArg>& residual, const std::string& algorithm, Size blocks,
          const std::optional<QuantizationArg>& quantization, bool ahead) {
  require(images > 0 && channels > 0 && out_channels > 0, "conv: expected something to do");
  require(stride > 0 && kernel.first > 0 && kernel.second > 0,
          "conv: expected a stride and kernel");
  const auto chosen = Algorithm(index_of(kAlgorithms, algorithm, "algorithm"));
  const bool winograd = chosen == Algorithm::kWinograd2 || chosen == Algorithm::kWinograd4;
  require(!winograd || (kernel == std::pair<int, int>(3, 3) && stride == 1),
          "conv: Winograd's algorithm takes 3 x 3 kernels of stride 1");
  const int64_t terms = channels * kernel.first * kernel.second;
  require(quantization.has_value() == (chosen == Algorithm::kInt8),
          "conv: int8 and no other algorithm takes a quantization");
  require(!quantization || terms <= kMostInt8Terms, "conv: too many terms for 32-bit sums");
  Conv spec = {};
  spec.x = pixels(x);
  spec.y = pixels(y);
  spec.images = images;
  std::tie(spec.height, spec.width) = size;
  spec.channels = channels;
  std::tie(spec.out_height, spec.out_width) = out_size;
  spec.out_channels = out_channels;
  std::tie(spec.kernel_height, spec.kernel_width) = kernel;
  spec.stride = stride;
  std::tie(spec.pad_top, spec.pad_left) = padding;
  spec.upsample = upsample;
  spec.weights = floats(weights);
  spec.epilogue = {floats(bias), per_image(shift), per_image(scale),
                   residual ? pixels(*residual) : Pixels{}, activation_of(activation)};
  std::tie(spec.row_block, spec.panel_block) = blocks;
  if (ahead) {
    const bool whole = quantization ? channels % tile_depth(1) == 0 : channels % tile_depth(2) == 0;
    const bool inside = out_size.first + kernel.first > size.first + padding.first &&
                        out_size.second + kernel.second > size.second + padding.second;
    require(chosen == Algorithm::kTiles || chosen == Algorithm::kInt8,
            "conv: no input of " + algorithm + " is rounded ahead");
    require(whole && inside && stride == 1 && (!upsample || by_phases(spec)),
            "conv: its input cannot be rounded ahead, pixel by pixel and in whole tiles");
    require(plan.rounds(), "conv: the node before it rounds nothing");
  }
  Quantization scales = {};
  if (quantization) {
    const auto& [inputs, outputs, zeros, zero] = *quantization;
    require(zero >= 0 && zero <= 255, "conv: expected 0 to be one of 0 to 255");
    scales = {floats(inputs), floats(outputs), reinterpret_cast<const int32_t*>(zeros), zero};
  }
  add_conv(plan, name, spec, chosen, scales, ahead);
}

void group_norm(Plan& plan, const std::string& name, const PixelsArg& x, const PixelsArg& y,
                int64_t images, int64_t pixel_count, int64_t channels, int64_t groups,
                Address gamma, Address beta, float epsilon, const std::string& activation) {
  require(groups > 0 && channels % groups == 0, "group_norm: expected groups of equal size");
  add_group_norm(plan, name,
                 {pixels(x), pixels(y), images, pixel_count, channels, groups, floats(gamma),
                  floats(beta), epsilon, activation_of(activation)});
}

void layer_norm(Plan& plan, const std::string& name, const PixelsArg& x, const PixelsArg& y,
                int64_t images, int64_t pixel_count, int64_t channels, float epsilon, Address gamma,
                Address beta, const std::optional<PerImageArg>& scale,
                const std::optional<PerImageArg>& shift, bool centred) {
  add_layer_norm(plan, name,
                 {pixels(x), pixels(y), images, pixel_count, channels, floats(gamma), floats(beta),
                  per_image(scale), per_image(shift), epsilon, centred});
}

void attention(Plan& plan, const std::string& name, const HeadsArg& q, const HeadsArg& k,
               const HeadsArg& v, const HeadsArg& y, int64_t images, int64_t heads, int64_t queries,
               int64_t keys, int64_t depth, int64_t value_depth, float scale,
               const std::string& algorithm) {
  const auto chosen = Algorithm(index_of(kAlgorithms, algorithm, "algorithm"));
  require(chosen == Algorithm::kDirect || chosen == Algorithm::kTiles,
          "attention: expected direct or tiles, got " + algorithm);
  add_attention(plan, name,
                {heads_of(q), heads_of(k), heads_of(v), heads_of(y), images, heads, queries, keys,
                 depth, value_depth, scale},
                chosen);
}

void map(Plan& plan, const std::string& name, const std::vector<int64_t>& shape,
         const std::vector<StridedArg>& inputs, const StridedArg& output,
         const std::vector<std::tuple<std::string, int, int, float>>& program) {
  require(shape.size() <= kMapRank, "map: expected at most 5 axes");
  require(inputs.size() <= kMapInputs, "map: expected at most 8 inputs");
  require(program.size() <= kMapSteps, "map: expected at most 24 steps");
  require(!inputs.empty() || !program.empty(), "map: expected an input or a program");
  Map spec = {};
  const size_t lead = kMapRank - shape.size();  // axes in front, of length 1
  std::fill_n(spec.shape, kMapRank, 1);
  std::copy(shape.begin(), shape.end(), spec.shape + lead);
  const auto strides = [&](const StridedArg& arg, int64_t* to) {
    require(std::get<1>(arg).size() == shape.size(), "map: expected a stride for each axis");
    std::copy(std::get<1>(arg).begin(), std::get<1>(arg).end(), to + lead);
  };
  for (const StridedArg& input : inputs) {
    spec.x[spec.inputs] = floats(std::get<0>(input));
    strides(input, spec.x_strides[spec.inputs++]);
  }
  spec.y = floats(std::get<0>(output));
  strides(output, spec.y_strides);
  for (const auto& [op, a, b, constant] : program) {
    const int known = spec.inputs + spec.steps;
    require(a < known && b < known && (a >= 0 || op == "constant"), "map: operand not there yet");
    spec.program[spec.steps++] = {MapOp(index_of(kMapOpNames, op, "operation")), a, b, constant};
  }
  add_map(plan, name, spec);
}

void gather(Plan& plan, const std::string& name, const PerImageArg& labels, Address table,
            int64_t rows, int64_t channels, const PerImageArg& y, int64_t images, bool halves) {
  add_gather(plan, name,
             {reinterpret_cast<const int64_t*>(std::get<0>(labels)), floats(table), halves,
              floats(std::get<0>(y)), images, std::get<1>(labels), std::get<1>(y), rows, channels});
}

void observe(Plan& plan, const std::string& name, const PixelsArg& x, int64_t images,
             int64_t pixel_count, int64_t channels, Address low, Address high) {
  add_observe(plan, name, {pixels(x), images, pixel_count, channels, floats(low), floats(high)});
}

py::array_t<float> pack_panels_of(py::handle weights_, const std::string& level) {
  Dim taps("taps"), depth("C"), columns("N");
  Array weights("weights", weights_);
  weights.of({Type::kFloat32}).shaped({&taps, &depth, &columns});
  const int64_t panel = usable(level).panel;
  py::array_t<float> out(divided_up(columns.size(), panel) * taps.size() * depth.size() * panel);
  pack_panels(weights.data<float>(), taps.size(), depth.size(), columns.size(), panel,
              out.mutable_data());
  return out;
}

py::array_t<float> pack_winograd_of(py::handle weights_, int m, const std::string& level,
                                    int threads) {
  Dim columns("N"), depth("C"), height(3), width(3);
  Array weights("weights", weights_);
  weights.of({Type::kFloat32}).shaped({&columns, &depth, &height, &width});
  require_threads(threads);
  require(m == 2 || m == 4, "m: expected 2 or 4, got " + std::to_string(m));
  const int64_t panel = usable(level).panel;
  const int64_t matrix = divided_up(columns.size(), panel) * depth.size() * panel;
  py::array_t<float> out((m + 2) * (m + 2) * matrix);
  float* to = out.mutable_data();
  py::gil_scoped_release release;
  pack_winograd(weights.data<float>(), depth.size(), columns.size(), m, panel, threads, to);
  return out;
}

/// Weights (taps, C, N) of type From as tiles of elements To, which are as many for each step.
template <class From, class To>
py::array_t<To> tiles_of(py::handle weights_, Type type,
                         void (*pack)(const From*, int64_t, int64_t, int64_t, To*)) {
  Dim taps("taps"), depth("C"), columns("N");
  Array weights("weights", weights_);
  weights.of({type}).shaped({&taps, &depth, &columns});
  const int64_t steps = divided_up(depth.size(), tile_depth(sizeof(To))) * taps.size();
  const int64_t bytes = divided_up(columns.size(), kTilePanel) * steps * 2 * kTileBytes;
  py::array_t<To> out(bytes / int64_t(sizeof(To)));
  pack(weights.data<From>(), taps.size(), depth.size(), columns.size(), out.mutable_data());
  return out;
}

/// The names of element-wise operations: by their number of operands, and those of activations.
py::dict operation_names() {
  const auto list = [](const auto& names) {
    py::tuple all(std::size(names));
    for (size_t i = 0; i < std::size(names); ++i) all[i] = names[i];
    return all;
  };
  py::dict names;
  names["binary"] = list(kBinaryNames);
  names["unary"] = list(kUnaryNames);
  names["activation"] = list(kActivationNames);
  return names;
}

py::dict level_reasons() {
  py::dict reasons;
  for (const Level* level : network::levels()) {
    reasons[level->name] = level->supported()
                               ? py::object(py::none())
                               : py::str("this CPU lacks " + std::string(level->needs));
  }
  return reasons;
}

}  // namespace

void bind_network(py::module_& module) {
  using py::arg;
  const py::object none = py::none();
  py::class_<Plan>(module, "NetworkPlan")
      .def(py::init([](const std::string& level) { return new Plan(usable(level)); }),
           arg("level") = "")
      .def_property_readonly("level", [](const Plan& plan) { return plan.level().name; })
      .def_property_readonly("panel", [](const Plan& plan) { return plan.level().panel; })
      .def_property_readonly("tile_math", [](const Plan& plan) { return plan.level().tile_math; })
      .def_property_readonly("int8_math", [](const Plan& plan) { return plan.level().int8_math; })
      .def_property_readonly("scratch_bytes", &Plan::scratch_bytes)
      .def("conv", conv, arg("name"), py::kw_only(), arg("x"), arg("y"), arg("images"), arg("size"),
           arg("channels"), arg("out_size"), arg("out_channels"), arg("weights"),
           arg("kernel") = std::pair<int, int>(1, 1), arg("stride") = 1,
           arg("padding") = std::pair<int, int>(0, 0), arg("upsample") = false, arg("bias") = 0,
           arg("shift") = none, arg("activation") = "none", arg("scale") = none,
           arg("residual") = none, arg("algorithm") = "direct", arg("blocks") = Size(0, 0),
           arg("quantization") = none, arg("ahead") = false)
      .def("group_norm", group_norm, arg("name"), py::kw_only(), arg("x"), arg("y"), arg("images"),
           arg("pixels"), arg("channels"), arg("groups"), arg("gamma"), arg("beta"), arg("epsilon"),
           arg("activation") = "none")
      .def("layer_norm", layer_norm, arg("name"), py::kw_only(), arg("x"), arg("y"), arg("images"),
           arg("pixels"), arg("channels"), arg("epsilon"), arg("gamma") = 0, arg("beta") = 0,
           arg("scale") = none, arg("shift") = none, arg("centred") = true)
      .def("attention", attention, arg("name"), py::kw_only(), arg("q"), arg("k"), arg("v"),
           arg("y"), arg("images"), arg("heads"), arg("queries"), arg("keys"), arg("depth"),
           arg("value_depth"), arg("scale"), arg("algorithm") = "direct")
      .def("map", map, arg("name"), py::kw_only(), arg("shape"), arg("inputs"), arg("output"),
           arg("program"))
      .def("gather", gather, arg("name"), py::kw_only(), arg("labels"), arg("table"), arg("rows"),
           arg("channels"), arg("y"), arg("images"), arg("halves") = false)
      .def("observe", observe, arg("name"), py::kw_only(), arg("x"), arg("images"), arg("pixels"),
           arg("channels"), arg("low"), arg("high"))
      .def(
          "use_scratch",
          [](Plan& plan, Address address) {
            require(address % 64 == 0, "scratch memory: expected an address of whole cache lines");
            plan.use_scratch(floats(address));
          },
          arg("address"))
      .def("nodes",
           [](const Plan& plan) {
             std::vector<std::pair<std::string, double>> nodes;
             for (const auto& node : plan.nodes()) nodes.emplace_back(node.name, node.flops);
             return nodes;
           })
      .def(
          "run",
          [](Plan& plan, int threads) {
            require_threads(threads);
            plan.run(threads);
          },
          arg("threads"), py::call_guard<py::gil_scoped_release>())
      .def(
          "profile",
          [](Plan& plan, int threads) {
            require_threads(threads);
            const py::gil_scoped_release release;
            return plan.profile(threads);
          },
          arg("threads"));

  module.def("network_levels", level_reasons);
  module.def("operation_names", operation_names);
  module.def("pack_panels", pack_panels_of, arg("weights"), arg("level") = "");
  module.def(
      "pack_tiles",
      [](py::handle weights) { return tiles_of(weights, Type::kFloat32, pack_tiles); },
      arg("weights"));
  module.def(
      "pack_int8", [](py::handle weights) { return tiles_of(weights, Type::kInt8, pack_int8); },
      arg("weights"));
  module.def("pack_winograd", pack_winograd_of, arg("weights"), arg("m"), arg("level") = "",
             arg("threads") = 1);
}

}  // namespace fastdiff
