// What a kind of node is. One header holds all that C++ knows of a kind: the arguments of its
// kernels (the spec), the kernels, the arguments that Python gives, and the stages that it becomes.
// A kind of node for pooling would read:
//
//   struct Pool {
//     static constexpr const char* kName = "pool";  // Python's NetworkPlan.pool(name, ...)
//     static constexpr int kStages = 1;             // the number of kernels
//     using Specs = TypeList<Pool>;                 // the specs of its kernels: here itself
//     Pixels x, y;
//     template <class Fields> void describe(Fields& fields) { fields("x", x); ... }
//     template <class Builder> void build(Builder& node) const { node.stage(*this, 0, units); }
//   };
//   template <class A> struct KernelsOf<Pool, A> {
//     static constexpr Stages<Pool> stages = {{PoolOf<typename A::L>::run}};
//   };
//
// A line in kinds.h registers it. `describe` and `build` are templates only because the source
// files of the instruction levels include this text: as plain functions they would be compiled for
// newer CPUs too, and the linker could pick that copy for an older CPU.
#pragma once

#include <cstdint>

namespace fastdiff::network {

/// A kernel: does one unit of a stage. The units of a stage may run at the same time and in any
/// order. Every element of the output is written by exactly one unit, so the bits of the output do
/// not depend on the number of threads.
template <class Spec>
using Unit = void (*)(const Spec& spec, float* scratch, int64_t unit);

/// The kernels that take a Spec, at one instruction level.
template <class Spec>
struct Stages {
  Unit<Spec> units[Spec::kStages];
};

/// What an instruction level computes with: its lane type (lanes.h), and the types that multiply
/// tiles of bfloat16 and of 8-bit integers (tile_math.h).
template <class Lanes, class Bfloat16Tiles, class Int8Tiles>
struct Arithmetic {
  using L = Lanes;
  using T = Bfloat16Tiles;
  using I = Int8Tiles;
};

/// Has a member `stages`, the kernels of a Spec for the Arithmetic A. Specialised beside the
/// kernels.
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

/// The kernels of all kinds of node at one instruction level. It is an aggregate, so that it is
/// initialised at compile time and needs no code of its own.
template <class Kinds>
struct KernelTable;
template <class... Specs>
struct KernelTable<TypeList<Specs...>> : Stages<Specs>... {
  template <class A>
  static constexpr KernelTable of() {
    return {KernelsOf<Specs, A>::stages...};
  }
};

/// The specs of all kinds of node, as one TypeList.
template <class Kinds>
struct SpecsOf;
template <class... Kinds>
struct SpecsOf<TypeList<Kinds...>> {
  using Type = typename Joined<TypeList<>, typename Kinds::Specs...>::Type;
};

}  // namespace fastdiff::network
