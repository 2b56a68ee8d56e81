// An instruction level of the native backend: the kernels that were compiled for a set of CPU
// instructions, as plain function pointers.
#pragma once

#include "kinds.h"

namespace fastdiff::network {

/// The kernels of every kind of node, at one instruction level.
using Kernels = KernelTable<SpecsOf<Kinds>::Type>;

/// The instruction level of a CPU. The noise levels of sampling have nothing to do with it.
struct Level {
  const char* name;
  const char* needs;                  // the instruction sets that the CPU must have, in words
  bool (*supported)();                // whether this CPU and system can run the kernels
  int panel;                          // columns of a packed panel of weights
  const char *tile_math, *int8_math;  // which instructions multiply tiles of bfloat16, of integers
  Kernels kernels;

  /// Returns the kernel number `stage` of those that take a Spec.
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
