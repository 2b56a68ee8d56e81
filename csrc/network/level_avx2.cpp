// The instruction level "avx2": AVX2 and FMA, with 8 lanes.
#include <immintrin.h>

#include "kernels.h"
#include "wide_tiles.h"

namespace fastdiff::network {
namespace {

/// Vectors of 8 lanes with the instructions of AVX2 and FMA.
struct Avx2 : Vectors<8> {
  static constexpr int kRows = 6;  // 12 sums, 2 vectors of weights, 1 of activations: 15 registers

  static FASTDIFF_INLINE F load_part(const float* from, int64_t count) {
    return (F)_mm256_maskload_ps(from, first(count));
  }
  static FASTDIFF_INLINE void store_part(float* to, F v, int64_t count) {
    _mm256_maskstore_ps(to, first(count), (__m256)v);
  }
  static FASTDIFF_INLINE F broadcast(const float* from) { return (F)_mm256_broadcast_ss(from); }
  static FASTDIFF_INLINE F fma(F a, F b, F c) {
    return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  }
  static FASTDIFF_INLINE void store_u8(uint8_t* to, F v) {
    const __m256 kept = _mm256_max_ps((__m256)v, _mm256_setzero_ps());  // of NaN, this gives 0
    const __m256i n = _mm256_cvtps_epi32(_mm256_min_ps(kept, _mm256_set1_ps(255.0f)));
    const __m128i words =
        _mm_packus_epi32(_mm256_castsi256_si128(n), _mm256_extracti128_si256(n, 1));
    _mm_storel_epi64((__m128i*)to, _mm_packus_epi16(words, words));
  }
  static FASTDIFF_INLINE F max(F a, F b) { return (F)_mm256_max_ps((__m256)a, (__m256)b); }
  static FASTDIFF_INLINE F min(F a, F b) { return (F)_mm256_min_ps((__m256)a, (__m256)b); }

 private:
  static FASTDIFF_INLINE __m256i first(int64_t count) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(int32_t(count)), lanes);
  }
};

/// Vectors of 16-bit integers for WideTiles.
struct Words {
  static constexpr const char* kName = "AVX2, in 16 bits";
  static constexpr int kColumns = 4;
  using I = Avx2::I;

  static FASTDIFF_INLINE void widen(const uint8_t* from, int16_t (&to)[kTileRowBytes]) {
    FASTDIFF_UNROLL
    for (int i = 0; i < kTileRowBytes; i += 16) {
      const __m128i bytes = _mm_loadu_si128((const __m128i*)(from + i));
      _mm256_store_si256((__m256i*)(to + i), _mm256_cvtepu8_epi16(bytes));
    }
  }
  static FASTDIFF_INLINE I load(const uint8_t* from) {
    return (I)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)from));
  }
  static FASTDIFF_INLINE I repeat(const int16_t* four) {
    int64_t bits;
    memcpy(&bits, four, sizeof bits);
    return (I)_mm256_set1_epi64x(bits);
  }
  static FASTDIFF_INLINE I multiply(I a, I b) {
    return (I)_mm256_madd_epi16((__m256i)a, (__m256i)b);
  }
};

bool supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

}  // namespace

const Level kAvx2 =
    level_of<Avx2, PlainTiles<Bfloat16>, WideTiles<Words>>("avx2", "AVX2 and FMA", supported);

}  // namespace fastdiff::network
