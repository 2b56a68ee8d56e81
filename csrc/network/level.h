// What one instruction-set level of the network engine offers, as plain function pointers.
#pragma once

#include "specs.h"

namespace fastdiff::network {

/// Does one unit of a stage. Units of a stage run at the same time, in any order, and every element
/// is the work of one unit, so the bits do not depend on the threads.
template <class Spec>
using Unit = void (*)(const Spec& spec, float* scratch, int64_t unit);

struct Level {
  const char* name;
  const char* needs;  // instruction sets, in words
  bool (*supported)();
  int panel;  // columns of a packed panel of weights

  Unit<Conv> conv;
  Unit<Winograd> winograd2[3], winograd4[3];  // into the transform domain, products, back
  Unit<TileConv> tiles[4], int8[4];   // the input: rounding, or padding; gathering; products
  const char *tile_math, *int8_math;  // what multiplies tiles
  Unit<GroupNorm> group_norm[3];      // moments of chunks, scale and shift, application
  Unit<LayerNorm> layer_norm;
  Unit<Attention> attention[2], tile_attention[2];  // values copied, or keys too, rounded; queries
  Unit<Map> map;
};

extern const Level kPortable;
#if defined(__x86_64__)
extern const Level kAvx2;
extern const Level kAvx512;
#ifdef FASTDIFF_TILES
extern const Level kAvx512Bf16;
extern const Level kAmx;
#endif
#endif

}  // namespace fastdiff::network
