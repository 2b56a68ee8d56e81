// What a kind of node is. All that C++ knows of one stands in one header: what its kernels are
// told, the kernels, what Python says of it, and the stages that it becomes.
//
//   struct Pool {
//     static constexpr const char* kName = "pool";  // Python's NetworkPlan.pool(name, ...)
//     static constexpr int kStages = 1;             // kernels, one for each stage
//     using Specs = TypeList<Pool>;                 // what its kernels take: itself
//     Pixels x, y;
//     template <class Fields> void describe(Fields& fields) { fields("x", x); ... }
//     template <class Builder> void build(Builder& node) const { node.stage(*this, 0, units); }
//   };
//   template <class A> struct KernelsOf<Pool, A> {
//     static constexpr Stages<Pool> stages = {{PoolOf<typename A::L>::run}};
//   };
//
// A line in kinds.h registers it. `describe` and `build` are templates for one reason: the sources
// of the levels include this text, and must emit no function of it that the linker could pick for
// an older CPU.
#pragma once

#include <cstdint>

namespace fastdiff::network {

/// Does one unit of a stage. Units of a stage run at the same time, in any order, and every element
/// is the work of one unit, so the bits do not depend on the threads.
template <class Spec>
using Unit = void (*)(const Spec& spec, float* scratch, int64_t unit);

/// The kernels that take a Spec, at one level.
template <class Spec>
struct Stages {
  Unit<Spec> units[Spec::kStages];
};

/// What a level computes with: lanes, and what multiplies tiles of bfloat16 and of 8-bit integers.
template <class Lanes, class Bfloat16Tiles, class Int8Tiles>
struct Arithmetic {
  using L = Lanes;
  using T = Bfloat16Tiles;
  using I = Int8Tiles;
};

/// Specialised beside each kernel.
template <class Spec, class A>
struct KernelsOf;

template <class... Types>
struct TypeList {};

template <class... Lists>
struct Joined;
template <class... A>
struct Joined<TypeList<A...>> {
  using Type = TypeList<A...>;
};
template <class... A, class... B, class... Rest>
struct Joined<TypeList<A...>, TypeList<B...>, Rest...> : Joined<TypeList<A..., B...>, Rest...> {};

/// The kernels of all kinds at one level. An aggregate, so that it is constant data and nothing
/// else.
template <class Kinds>
struct KernelTable;
template <class... Specs>
struct KernelTable<TypeList<Specs...>> : Stages<Specs>... {
  template <class A>
  static constexpr KernelTable of() {
    return {KernelsOf<Specs, A>::stages...};
  }
};

/// The specs of all kinds.
template <class Kinds>
struct SpecsOf;
template <class... Kinds>
struct SpecsOf<TypeList<Kinds...>> {
  using Type = typename Joined<TypeList<>, typename Kinds::Specs...>::Type;
};

}  // namespace fastdiff::network
