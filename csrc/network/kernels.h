// All kernels of the native backend for one lane type.
//
// The source file of each instruction level includes this file and instantiates the kernels with a
// lane type of internal linkage. Without that, the linker could merge the instances of two levels
// and keep the one that was compiled for the newer CPU.
#pragma once

#include "level.h"

namespace fastdiff::network {

/// Returns the instruction level of the lane type L. T multiplies tiles of bfloat16 and I tiles of
/// 8-bit integers (tile_math.h). Levels without instructions for these use plain arithmetic.
template <class L, class T = PlainTiles<Bfloat16>, class I = PlainTiles<Int8>>
constexpr Level level_of(const char* name, const char* needs, bool (*supported)()) {
  return Level{name,
               needs,
               supported,
               Multiply<L>::kPanel,
               T::kName,
               I::kName,
               Kernels::of<Arithmetic<L, T, I>>()};
}

}  // namespace fastdiff::network
