// From what is said of a node to its stages.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "plan.h"

namespace fastdiff::network {

/// What is said of a node does not fit.
struct InvalidNode {
  std::string message;
};

/// What a kind of node builds itself with.
class Builder {
 public:
  Builder(Plan& plan, std::string name, const char* kind)
      : plan(plan), kind_(kind), node_{std::move(name), 0, {}} {}

  Plan& plan;
  double flops = 0;            // floating-point operations, as the definition has them
  int64_t scratch_floats = 0;  // that the stages share

  const Level& level() const { return plan.level(); }

  void require(bool holds, const std::string& message) const {
    if (!holds) throw InvalidNode{std::string(kind_) + ": " + message};
  }

  /// Appends `units` calls of the level's kernel for a stage of Spec, with a copy of `spec`.
  template <class Spec>
  void stage(const Spec& spec, int stage, int64_t units) {
    this->stage(spec, level().unit<Spec>(stage), units);
  }
  /// The same, of a kernel that all levels share.
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
  /// The same for each of some parts of the work: `part_of(spec, scratch, part)` makes a copy of
  /// the spec, and the scratch memory, the part's own.
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
  // Where a spec says what its kernel rounds to, which the node behind may set.
  template <class Spec>
  static auto rounded_of(Spec& spec, int) -> decltype(&spec.rounded) {
    return &spec.rounded;
  }
  template <class Spec>
  static auto rounded_of(Spec& spec, int) -> decltype(&spec.conv.rounded) {
    return &spec.conv.rounded;
  }
  template <class Spec>
  static const Rounded** rounded_of(Spec&, long) {  // it rounds nothing
    return nullptr;
  }

  const char* kind_;
  Node node_;
};

/// Appends a node to `plan`.
///
/// Throws InvalidNode if it cannot be: the plan is then as it was.
template <class Kind>
void add(Plan& plan, std::string name, const Kind& kind) {
  Builder node(plan, std::move(name), Kind::kName);
  kind.build(node);
  node.finish();
}

}  // namespace fastdiff::network
