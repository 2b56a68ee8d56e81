// The class fastdiff._native.NetworkPlan, and the functions that pack weights. Memory is passed as
// addresses, which are integers: who builds a plan must keep the memory alive as long as the plan.
#include "network.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "../network/builder.h"
#include "../network/operations.h"
#include "../network/pack.h"
#include "array.h"
#include "fields.h"

namespace py = pybind11;

namespace fastdiff {
namespace {

using namespace network;

void require(bool holds, const std::string& message) {
  if (!holds) throw Error{ErrorKind::kInvalidArgument, message};
}

void require_threads(int threads) {
  require(threads >= 1, "threads must be at least 1, got " + std::to_string(threads));
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

/// The level called `name`; without a name, the best that this CPU supports.
const Level& usable(const std::string& name) {
  if (!name.empty()) return find(name);
  const Level* best = &kPortable;
  for (const Level* level : network::levels()) {
    if (level->supported()) best = level;
  }
  return *best;
}

using PlanClass = py::class_<Plan>;

/// Gives plans a method for each kind of node. It takes the fields of the node as keyword
/// arguments, such as plan.conv(name, x=..., ...), and appends the node.
template <class... Kinds>
void define_kinds(PlanClass& plans, TypeList<Kinds...>) {
  const auto define = [&](auto kind_) {
    using Kind = decltype(kind_);
    plans.def(Kind::kName, [](Plan& plan, const std::string& name, const py::kwargs& arguments) {
      Kind kind = {};
      Fields fields(Kind::kName, arguments);
      kind.describe(fields);
      fields.finish();
      try {
        add(plan, name, kind);
      } catch (const InvalidNode& error) {
        throw Error{ErrorKind::kInvalidArgument, error.message};
      }
    });
  };
  (define(Kinds{}), ...);
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

/// Packs weights (taps, C, N) of type From into tiles of elements of type To by `pack`.
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

/// Returns the names of the element-wise operations, by their number of operands, and those of the
/// activations.
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
  PlanClass plans(module, "NetworkPlan");
  define_kinds(plans, Kinds{});
  plans
      .def(py::init([](const std::string& level) { return new Plan(usable(level)); }),
           arg("level") = "")
      .def_property_readonly("level", [](const Plan& plan) { return plan.level().name; })
      .def_property_readonly("panel", [](const Plan& plan) { return plan.level().panel; })
      .def_property_readonly("tile_math", [](const Plan& plan) { return plan.level().tile_math; })
      .def_property_readonly("int8_math", [](const Plan& plan) { return plan.level().int8_math; })
      .def_property_readonly("scratch_bytes", &Plan::scratch_bytes)
      .def(
          "use_scratch",
          [](Plan& plan, uintptr_t address) {
            require(address % 64 == 0, "scratch memory: expected an address of whole cache lines");
            plan.use_scratch(reinterpret_cast<float*>(address));
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
