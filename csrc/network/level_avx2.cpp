// The AVX2 level with fused multiply-adds: 8 lanes.
#include <immintrin.h>

#include "kernels.h"

namespace fastdiff::network {
namespace {

struct Avx2 : Vectors<8> {
  static constexpr int kRows = 6;  // 12 sums, 2 vectors of weights, 1 of activations: 15 registers

  static FASTDIFF_INLINE F broadcast(const float* from) { return (F)_mm256_broadcast_ss(from); }
  static FASTDIFF_INLINE F fma(F a, F b, F c) {
    return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  }
  static FASTDIFF_INLINE F max(F a, F b) { return (F)_mm256_max_ps((__m256)a, (__m256)b); }
  static FASTDIFF_INLINE F min(F a, F b) { return (F)_mm256_min_ps((__m256)a, (__m256)b); }
};

bool supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

}  // namespace

const Level kAvx2 = level_of<Avx2>("avx2", "AVX2 and FMA", supported);

}  // namespace fastdiff::network
