// The portable level: plain C++17, any architecture.
#include "fastdiff/scalar.h"
#include "kernels.h"

namespace fastdiff::cpu {

const Level kPortable = level_of<Scalar>("portable", "any CPU", [] { return true; });

}  // namespace fastdiff::cpu
