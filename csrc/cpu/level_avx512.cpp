// The instruction level "avx512": AVX-512, with 16 lanes.
#include <immintrin.h>

#include "kernels.h"

namespace fastdiff::cpu {
namespace {

/// The lane type (fastdiff/scalar.h describes its operations) of 512-bit vectors.
struct Avx512 {
  static constexpr int kLanes = 16;
  static constexpr int kGroups = 2;  // one for the even and one for the odd 32-bit lanes

  typedef float F __attribute__((vector_size(64)));
  typedef int32_t I __attribute__((vector_size(64)));
  typedef uint32_t U __attribute__((vector_size(64)));
  typedef uint64_t Q __attribute__((vector_size(64)));

  static FASTDIFF_INLINE F splat(float v) { return (F)_mm512_set1_ps(v); }
  static FASTDIFF_INLINE F to_float(I v) { return (F)_mm512_cvtepi32_ps((__m512i)v); }
  static FASTDIFF_INLINE F sqrt(F v) { return (F)_mm512_sqrt_ps((__m512)v); }
  static FASTDIFF_INLINE F max(F a, F b) { return (F)_mm512_max_ps((__m512)a, (__m512)b); }
  static FASTDIFF_INLINE F min(F a, F b) { return (F)_mm512_min_ps((__m512)a, (__m512)b); }
  template <class T>
  static FASTDIFF_INLINE T select_negative(U sign, T yes, T no) {
    return (T)_mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)sign), (__m512)no, (__m512)yes);
  }

  static FASTDIFF_INLINE Q widen(uint32_t v) { return (Q)_mm512_set1_epi64(v); }
  // 32-bit lane 4 s + j holds counter 4 j + s, so that interleave() puts the elements in order.
  static FASTDIFF_INLINE Q counters(uint32_t q, int group) {
    return widen(q) + (group == 0 ? Q{0, 8, 1, 9, 2, 10, 3, 11} : Q{4, 12, 5, 13, 6, 14, 7, 15});
  }
  static FASTDIFF_INLINE Q multiply(Q a, uint32_t b) {
    return (Q)_mm512_mul_epu32((__m512i)a, (__m512i)widen(b));
  }
  static FASTDIFF_INLINE Q xor3(Q a, Q b, Q c) {
    return (Q)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0x96);
  }
  static FASTDIFF_INLINE U narrow(const Q (&w)[kGroups]) {
    return (U)_mm512_mask_blend_epi32(0xAAAA, (__m512i)w[0], (__m512i)(w[1] << 32));
  }
  // A 4 x 4 transposition in each 128-bit quarter.
  static FASTDIFF_INLINE void interleave(F (&z)[4]) {
    const __m512 a = (__m512)z[0], b = (__m512)z[1], c = (__m512)z[2], d = (__m512)z[3];
    const __m512d ab_low = (__m512d)_mm512_unpacklo_ps(a, b);
    const __m512d ab_high = (__m512d)_mm512_unpackhi_ps(a, b);
    const __m512d cd_low = (__m512d)_mm512_unpacklo_ps(c, d);
    const __m512d cd_high = (__m512d)_mm512_unpackhi_ps(c, d);
    z[0] = (F)_mm512_unpacklo_pd(ab_low, cd_low);
    z[1] = (F)_mm512_unpackhi_pd(ab_low, cd_low);
    z[2] = (F)_mm512_unpacklo_pd(ab_high, cd_high);
    z[3] = (F)_mm512_unpackhi_pd(ab_high, cd_high);
  }

  static FASTDIFF_INLINE F load(const float* p) { return (F)_mm512_loadu_ps(p); }
  static FASTDIFF_INLINE void store(float* p, F v) { _mm512_storeu_ps(p, (__m512)v); }
  static FASTDIFF_INLINE U load_u16(const uint16_t* p) {
    return (U)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  }
  static FASTDIFF_INLINE void store_u16(uint16_t* p, U v) {
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16((__m512i)v));
  }
  static FASTDIFF_INLINE F load_float16(const uint16_t* p) {
    return (F)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
  }
  static FASTDIFF_INLINE void store_float16(uint16_t* p, F v) {
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
  }
};

bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

}  // namespace

const Level kAvx512 = level_of<Avx512>("avx512", "AVX-512 F, BW, DQ and VL", supported);

}  // namespace fastdiff::cpu
