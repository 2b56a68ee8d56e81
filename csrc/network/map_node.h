// Maps, which are short programs of element-wise operations, as nodes of a plan.
#pragma once

#include <algorithm>
#include <vector>

#include "map.h"
#include "simplify.h"

namespace fastdiff::network {

/// An operand: element (i, j, ...) is at data[strides[0] * i + strides[1] * j + ...].
struct Strided {
  float* data = nullptr;
  std::vector<int64_t> strides;
};

/// What Python tells of a map, and the stage that it becomes.
struct MapNode {
  static constexpr const char* kName = "map";
  using Specs = TypeList<Map>;

  std::vector<int64_t> shape;  // the number of images first
  std::vector<Strided> inputs;
  Strided output;
  std::vector<MapStep> program;

  template <class Fields>
  void describe(Fields& fields) {
    fields("shape", shape);
    fields("inputs", inputs);
    fields("output", output);
    fields("program", program);
  }

  template <class Builder>
  void build(Builder& node) const {
    node.require(shape.size() <= kMapRank, "expected at most 5 axes");
    node.require(inputs.size() <= kMapInputs, "expected at most 8 inputs");
    node.require(program.size() <= kMapSteps, "expected at most 24 steps");
    node.require(!inputs.empty() || !program.empty(), "expected an input or a program");
    Map spec = {};
    const size_t lead = kMapRank - shape.size();  // how many axes of length 1 are put in front
    std::fill_n(spec.shape, kMapRank, 1);
    std::copy(shape.begin(), shape.end(), spec.shape + lead);
    const auto take = [&](const Strided& operand, int64_t* strides) {
      node.require(operand.strides.size() == shape.size(), "expected a stride for each axis");
      std::copy(operand.strides.begin(), operand.strides.end(), strides + lead);
      return operand.data;
    };
    for (const Strided& input : inputs) {
      spec.x[spec.inputs] = take(input, spec.x_strides[spec.inputs]);
      ++spec.inputs;
    }
    spec.y = take(output, spec.y_strides);
    for (const MapStep& step : program) {
      const int known = spec.inputs + spec.steps;
      const bool there = step.a >= 0 || step.op == MapOp::kConstant;
      node.require(step.a < known && step.b < known && there, "operand not there yet");
      spec.program[spec.steps++] = step;
    }
    const Map simple = simplified(spec);
    node.stage(simple, 0, map_units(simple));
  }
};

template <class A>
struct KernelsOf<Map, A> {
  static constexpr Stages<Map> stages = {{Maps<typename A::L>::run}};
};

}  // namespace fastdiff::network
