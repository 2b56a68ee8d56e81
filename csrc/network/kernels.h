// All kernels of the native backend for one lane policy.
//
// Every SIMD level includes this file in one source file, with a policy of internal linkage, so
// that no function compiled for a newer CPU can be picked by the linker for an older one.
#pragma once

#include "level.h"

namespace fastdiff::network {

/// T multiplies tiles of bfloat16 and I those of 8-bit integers, which plain arithmetic does at
/// levels without instructions for it.
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
