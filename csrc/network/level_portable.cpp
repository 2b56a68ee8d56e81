// The instruction level "portable", which runs on every CPU: four lanes, compiled from plain C++.
#include "kernels.h"

namespace fastdiff::network {
namespace {

/// Vectors of 4 lanes, whose operations are left to the compiler.
struct Portable : Vectors<4> {
  static constexpr int kRows = 6;

  static FASTDIFF_INLINE F broadcast(const float* from) { return splat(*from); }
  static FASTDIFF_INLINE F fma(F a, F b, F c) { return a * b + c; }
};

}  // namespace

const Level kPortable = level_of<Portable>("portable", "nothing", [] { return true; });

}  // namespace fastdiff::network
