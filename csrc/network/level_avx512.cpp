// The instruction level "avx512": AVX-512, with 16 lanes.
#include "avx512.h"
#include "kernels.h"
#include "wide_tiles.h"

namespace fastdiff::network {
namespace {

/// Vectors of 16-bit integers for WideTiles.
struct Words {
  static constexpr const char* kName = "AVX-512, in 16 bits";
  static constexpr int kColumns = 8;
  using I = Avx512::I;

  static FASTDIFF_INLINE void widen(const uint8_t* from, int16_t (&to)[kTileRowBytes]) {
    FASTDIFF_UNROLL
    for (int i = 0; i < kTileRowBytes; i += 32) {
      const __m256i bytes = _mm256_loadu_si256((const __m256i*)(from + i));
      _mm512_store_si512(to + i, _mm512_cvtepu8_epi16(bytes));
    }
  }
  static FASTDIFF_INLINE I load(const uint8_t* from) {
    return (I)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)from));
  }
  static FASTDIFF_INLINE I repeat(const int16_t* four) {
    int64_t bits;
    memcpy(&bits, four, sizeof bits);
    return (I)_mm512_set1_epi64(bits);
  }
  static FASTDIFF_INLINE I multiply(I a, I b) {
    return (I)_mm512_madd_epi16((__m512i)a, (__m512i)b);
  }
};

}  // namespace

const Level kAvx512 = level_of<Avx512, PlainTiles<Bfloat16>, WideTiles<Words>>(
    "avx512", "AVX-512 F, BW, DQ and VL", supports_avx512);

}  // namespace fastdiff::network
