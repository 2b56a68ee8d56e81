// Turns the description of a node into the stages of a plan.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "plan.h"

namespace fastdiff::network {

/// Thrown when the arguments of a node contradict each other or are not supported.
struct InvalidNode {
  std::string message;
};

/// What the `build` of a kind of node (kind.h) is given: it checks the arguments and appends
/// stages.
class Builder {
 public:
  Builder(Plan& plan, std::string name, const char* kind)
      : plan(plan), kind_(kind), node_{std::move(name), 0, {}} {}

  Plan& plan;
  double flops = 0;            // floating-point operations of the definition, not of the algorithm
  int64_t scratch_floats = 0;  // the size of the scratch memory that the stages share

  const Level& level() const { return plan.level(); }

  void require(bool holds, const std::string& message) const {
    if (!holds) throw InvalidNode{std::string(kind_) + ": " + message};
  }

  /// Appends a stage of `units` units. Its kernel is the instruction level's kernel number `stage`
  /// for Spec, and it is called with a copy of `spec`.
  template <class Spec>
  void stage(const Spec& spec, int stage, int64_t units) {
    this->stage(spec, level().unit<Spec>(stage), units);
  }
  /// Appends a stage whose kernel `unit` is the same at all instruction levels.
  template <class Spec>
  void stage(const Spec& spec, Unit<Spec> unit, int64_t units) {
    struct Bound {
      Spec spec;
      Unit<Spec> unit;
    };
    const auto call = [](const void* bound, float* scratch, int64_t i) {
      const auto& self = *static_cast<const Bound*>(bound);
      self.unit(self.spec, scratch, i);
    };
    const auto bound = std::make_shared<Bound>(Bound{spec, unit});
    node_.stages.push_back({bound, call, units, rounded_of(bound->spec, 0)});
  }
  /// Appends one stage that does the same work for each of `parts` parts, with `units` units each.
  /// For each unit, `part_of(spec, scratch, part)` changes a copy of the spec, and the address of
  /// the scratch memory, to those of the part.
  template <class Spec>
  void stage_of_parts(const Spec& spec, int stage, int64_t units, int64_t parts,
                      void (*part_of)(Spec&, float*&, int64_t)) {
    if (parts == 1) return this->stage(spec, stage, units);
    struct Bound {
      Spec spec;
      Unit<Spec> unit;
      int64_t units;
      void (*part_of)(Spec&, float*&, int64_t);
    };
    const auto call = [](const void* bound, float* scratch, int64_t i) {
      const auto& self = *static_cast<const Bound*>(bound);
      Spec part = self.spec;
      self.part_of(part, scratch, i / self.units);
      self.unit(part, scratch, i % self.units);
    };
    const auto bound =
        std::make_shared<Bound>(Bound{spec, level().unit<Spec>(stage), units, part_of});
    node_.stages.push_back({bound, call, parts * units, rounded_of(bound->spec, 0)});
  }

  /// Appends the node to the plan.
  void finish() {
    node_.flops = flops;
    plan.add(std::move(node_), scratch_floats);
  }

 private:
  // Returns the address of the field `rounded` of a spec, which the next node may set to have the
  // output rounded. The last overload is for specs without that field.
  template <class Spec>
  static auto rounded_of(Spec& spec, int) -> decltype(&spec.rounded) {
    return &spec.rounded;
  }
  template <class Spec>
  static auto rounded_of(Spec& spec, int) -> decltype(&spec.conv.rounded) {
    return &spec.conv.rounded;
  }
  template <class Spec>
  static const Rounded** rounded_of(Spec&, long) {
    return nullptr;
  }

  const char* kind_;
  Node node_;
};

/// Appends a node to `plan`.
///
/// Throws InvalidNode if the arguments of the node do not fit; the plan then has no new node.
template <class Kind>
void add(Plan& plan, std::string name, const Kind& kind) {
  Builder node(plan, std::move(name), Kind::kName);
  kind.build(node);
  node.finish();
}

}  // namespace fastdiff::network
