// What one instruction-set level of the native backend offers, as plain function pointers.
#pragma once

#include "kinds.h"

namespace fastdiff::network {

using Kernels = KernelTable<SpecsOf<Kinds>::Type>;

struct Level {
  const char* name;
  const char* needs;  // instruction sets, in words
  bool (*supported)();
  int panel;                          // columns of a packed panel of weights
  const char *tile_math, *int8_math;  // what multiplies tiles
  Kernels kernels;

  template <class Spec>
  Unit<Spec> unit(int stage) const {
    return static_cast<const Stages<Spec>&>(kernels).units[stage];
  }
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
