// The lane types of the instruction levels that have AVX-512.
//
// They have internal linkage: the source file of each level is compiled with flags of its own, so
// each needs a copy that the linker cannot exchange for another file's.
#pragma once

#include <immintrin.h>

#include "lanes.h"

namespace fastdiff::network {
namespace {

/// Vectors of 16 lanes with the instructions of AVX-512.
struct Avx512 : Vectors<16> {
  static constexpr int kRows = 14;  // 28 sums, 2 vectors of weights, 1 of activations: 31 registers

  static FASTDIFF_INLINE F load_part(const float* from, int64_t count) {
    return (F)_mm512_maskz_loadu_ps(first(count), from);
  }
  static FASTDIFF_INLINE void store_part(float* to, F v, int64_t count) {
    _mm512_mask_storeu_ps(to, first(count), (__m512)v);
  }
  static FASTDIFF_INLINE F broadcast(const float* from) { return (F)_mm512_set1_ps(*from); }
  static FASTDIFF_INLINE F fma(F a, F b, F c) {
    return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  }
  static FASTDIFF_INLINE F max(F a, F b) { return (F)_mm512_max_ps((__m512)a, (__m512)b); }
  static FASTDIFF_INLINE F min(F a, F b) { return (F)_mm512_min_ps((__m512)a, (__m512)b); }
  /// One Newton iteration refines the 14 bits of 1 / b that VRCP14PS gives. That takes a third of
  /// the time of the division instruction.
  static FASTDIFF_INLINE F divide(F a, F b) {
    const F guess = (F)_mm512_rcp14_ps((__m512)b);
    const F error = fma(-b, guess, splat(1.0f));  // NaN for infinity, where the guess is 0
    return a * fma(min(error, splat(1.0f)), guess, guess);
  }
  static FASTDIFF_INLINE F divide_shortly(F a, F b) { return a * (F)_mm512_rcp14_ps((__m512)b); }
  static FASTDIFF_INLINE void store_u8(uint8_t* to, F v) {
    const __m512i whole = _mm512_cvtps_epu32(_mm512_max_ps((__m512)v, _mm512_setzero_ps()));
    _mm_storeu_si128((__m128i*)to, _mm512_cvtusepi32_epi8(whole));
  }

 private:
  static FASTDIFF_INLINE __mmask16 first(int64_t count) { return __mmask16((1u << count) - 1); }
};

#ifdef __AVX512BF16__
/// The same, with the conversion instruction of AVX-512 BF16.
struct Avx512Bf16 : Avx512 {
  /// VCVTNEPS2BF16 turns subnormal numbers into 0.
  static FASTDIFF_INLINE void store_bf16(uint16_t* to, F v) {
    const __m256bh halves = _mm512_cvtneps_pbh((__m512)v);
    memcpy(to, &halves, sizeof halves);
  }
};
#endif

inline bool supports_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

}  // namespace
}  // namespace fastdiff::network
