// The AVX-512 level: 16 lanes.
#include "avx512.h"
#include "kernels.h"

namespace fastdiff::network {

const Level kAvx512 = level_of<Avx512>("avx512", "AVX-512 F, BW, DQ and VL", supports_avx512);

}  // namespace fastdiff::network
