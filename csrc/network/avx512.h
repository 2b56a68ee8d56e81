// The lane policy of the levels with AVX-512; of internal linkage, as each of their files needs it.
#pragma once

#include <immintrin.h>

#include "lanes.h"

namespace fastdiff::network {
namespace {

struct Avx512 : Vectors<16> {
  static constexpr int kRows = 14;  // 28 sums, 2 vectors of weights, 1 of activations: 31 registers

  static FASTDIFF_INLINE F broadcast(const float* from) { return (F)_mm512_set1_ps(*from); }
  static FASTDIFF_INLINE F fma(F a, F b, F c) {
    return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  }
  static FASTDIFF_INLINE F max(F a, F b) { return (F)_mm512_max_ps((__m512)a, (__m512)b); }
  static FASTDIFF_INLINE F min(F a, F b) { return (F)_mm512_min_ps((__m512)a, (__m512)b); }
};

inline bool supports_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

}  // namespace
}  // namespace fastdiff::network
