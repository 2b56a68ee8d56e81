// The instruction level "portable": plain C++17, which runs on every CPU.
#include "fastdiff/scalar.h"
#include "kernels.h"

namespace fastdiff::cpu {

const Level kPortable = level_of<Scalar>("portable", "any CPU", [] { return true; });

}  // namespace fastdiff::cpu
