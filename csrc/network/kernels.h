// All kernels of the network engine for one lane policy.
//
// Every SIMD level includes this file in one source file, with a policy of internal linkage, so
// that no function compiled for a newer CPU can be picked by the linker for an older one.
#pragma once

#include "attention.h"
#include "conv.h"
#include "level.h"
#include "map.h"
#include "norm.h"
#include "tile_attention.h"
#include "tiles.h"
#include "winograd.h"

namespace fastdiff::network {

/// T multiplies tiles of bfloat16 and I those of 8-bit integers, which plain arithmetic does at
/// levels without instructions for it.
template <class L, class T = PlainTiles<Bfloat16>, class I = PlainTiles<Int8>>
constexpr Level level_of(const char* name, const char* needs, bool (*supported)()) {
  using Winograd2 = WinogradOf<L, 2>;
  using Winograd4 = WinogradOf<L, 4>;
  using Tiles = ConvolveTiles<L, T>;
  using Integers = ConvolveTiles<L, I>;
  return Level{
      name,
      needs,
      supported,
      Multiply<L>::kPanel,
      Convolve<L>::run,
      {Winograd2::to_domain, Winograd2::multiply, Winograd2::from_domain},
      {Winograd4::to_domain, Winograd4::multiply, Winograd4::from_domain},
      {Tiles::round_input, Tiles::pad_input, Tiles::gather, Tiles::multiply},
      {Integers::round_input, Integers::pad_input, Integers::gather, Integers::multiply},
      T::kName,
      I::kName,
      {Norms<L>::statistics, Norms<L>::combine, Norms<L>::apply},
      Norms<L>::layer_norm,
      {Attend<L>::copy_values, Attend<L>::run},
      {AttendTiles<L, T>::round_keys, AttendTiles<L, T>::run},
      Maps<L>::run,
  };
}

}  // namespace fastdiff::network
