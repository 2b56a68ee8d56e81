// The instruction level "avx2": AVX2 and F16C, with 8 lanes.
#include <cpuid.h>
#include <immintrin.h>

#include "kernels.h"

namespace fastdiff::cpu {
namespace {

/// The lane type (fastdiff/scalar.h describes its operations) of 256-bit vectors.
struct Avx2 {
  static constexpr int kLanes = 8;
  static constexpr int kGroups = 2;  // one for the even and one for the odd 32-bit lanes

  typedef float F __attribute__((vector_size(32)));
  typedef int32_t I __attribute__((vector_size(32)));
  typedef uint32_t U __attribute__((vector_size(32)));
  typedef uint64_t Q __attribute__((vector_size(32)));

  static FASTDIFF_INLINE F splat(float v) { return (F)_mm256_set1_ps(v); }
  static FASTDIFF_INLINE F to_float(I v) { return (F)_mm256_cvtepi32_ps((__m256i)v); }
  static FASTDIFF_INLINE F sqrt(F v) { return (F)_mm256_sqrt_ps((__m256)v); }
  static FASTDIFF_INLINE F max(F a, F b) { return (F)_mm256_max_ps((__m256)a, (__m256)b); }
  static FASTDIFF_INLINE F min(F a, F b) { return (F)_mm256_min_ps((__m256)a, (__m256)b); }
  template <class T>
  static FASTDIFF_INLINE T select_negative(U sign, T yes, T no) {
    return (T)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)sign);
  }

  static FASTDIFF_INLINE Q widen(uint32_t v) { return (Q)_mm256_set1_epi64x(v); }
  // 32-bit lane 4 s + j holds counter 2 j + s, so that interleave() puts the elements in order.
  static FASTDIFF_INLINE Q counters(uint32_t q, int group) {
    return widen(q) + (group == 0 ? Q{0, 4, 1, 5} : Q{2, 6, 3, 7});
  }
  static FASTDIFF_INLINE Q multiply(Q a, uint32_t b) {
    return (Q)_mm256_mul_epu32((__m256i)a, (__m256i)widen(b));
  }
  static FASTDIFF_INLINE Q xor3(Q a, Q b, Q c) { return a ^ b ^ c; }
  static FASTDIFF_INLINE U narrow(const Q (&w)[kGroups]) {
    return (U)_mm256_blend_epi32((__m256i)w[0], (__m256i)(w[1] << 32), 0xAA);
  }
  static FASTDIFF_INLINE void interleave(F (&z)[4]) {  // a 4 x 4 transposition in each 128-bit half
    const __m256 a = (__m256)z[0], b = (__m256)z[1], c = (__m256)z[2], d = (__m256)z[3];
    const __m256d ab_low = (__m256d)_mm256_unpacklo_ps(a, b);
    const __m256d ab_high = (__m256d)_mm256_unpackhi_ps(a, b);
    const __m256d cd_low = (__m256d)_mm256_unpacklo_ps(c, d);
    const __m256d cd_high = (__m256d)_mm256_unpackhi_ps(c, d);
    z[0] = (F)_mm256_unpacklo_pd(ab_low, cd_low);
    z[1] = (F)_mm256_unpackhi_pd(ab_low, cd_low);
    z[2] = (F)_mm256_unpacklo_pd(ab_high, cd_high);
    z[3] = (F)_mm256_unpackhi_pd(ab_high, cd_high);
  }

  static FASTDIFF_INLINE F load(const float* p) { return (F)_mm256_loadu_ps(p); }
  static FASTDIFF_INLINE void store(float* p, F v) { _mm256_storeu_ps(p, (__m256)v); }
  static FASTDIFF_INLINE U load_u16(const uint16_t* p) {
    return (U)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
  }
  static FASTDIFF_INLINE void store_u16(uint16_t* p, U v) {
    const __m256i packed = _mm256_packus_epi32((__m256i)v, (__m256i)v);
    const __m256i in_order = _mm256_permute4x64_epi64(packed, 0b1000);
    _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(in_order));
  }
  static FASTDIFF_INLINE F load_float16(const uint16_t* p) {
    return (F)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
  }
  static FASTDIFF_INLINE void store_float16(uint16_t* p, F v) {
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
  }
};

bool supported() {
  unsigned eax, ebx, ecx, edx;  // not every compiler's __builtin_cpu_supports knows F16C
  return __builtin_cpu_supports("avx2") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) &&
         (ecx & bit_F16C);
}

}  // namespace

const Level kAvx2 = level_of<Avx2>("avx2", "AVX2 and F16C", supported);

}  // namespace fastdiff::cpu
