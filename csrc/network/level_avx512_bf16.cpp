// The instruction level "avx512_bf16": AVX-512 with dot products of bfloat16 (VDPBF16PS) and of
// 8-bit integers (VPDPBUSD).
#include "avx512.h"
#include "kernels.h"

namespace fastdiff::network {
namespace {

/// A tile multiplier (tile_math.h) by dot products of 4 bytes.
///
/// P provides Sum, the type of the sums; V, a vector of 16 of them; and add(), one instruction that
/// adds to each sum the products of 4 bytes of A and 4 bytes of B.
template <class P>
struct QuadTiles {
  static constexpr const char* kName = P::kName;
  using Sum = typename P::Sum;
  using V = typename P::V;

  void zero() { memset(sums_, 0, sizeof sums_); }

  void step(const uint8_t* a0, const uint8_t* a1, int64_t stride, const uint8_t* b) {
    for (int i = 0; i < 2; ++i) {
      for (int r = 0; r < kTileRows; r += kRows) {
        rows((i ? a1 : a0) + r * stride, stride, b, &sums_[i][r]);
      }
    }
  }

  void store(Sum (&to)[2][kTileRows][kTilePanel]) const { memcpy(to, sums_, sizeof sums_); }

 private:
  // Rows at a time: 16 sums, 2 vectors of B and 1 of A are in registers.
  static constexpr int kRows = 8;

  static FASTDIFF_INLINE void rows(const uint8_t* a, int64_t stride, const uint8_t* b,
                                   V (*sums)[2]) {
    V local[kRows][2];
    memcpy(local, sums, sizeof local);
    for (int k = 0; k < kTileRowBytes; k += 4, b += 4 * kTileColumns) {
      const __m512i b0 = _mm512_loadu_si512(b), b1 = _mm512_loadu_si512(b + kTileBytes);
      FASTDIFF_UNROLL
      for (int r = 0; r < kRows; ++r) {
        int32_t four;
        memcpy(&four, a + r * stride + k, sizeof four);
        const __m512i x = _mm512_set1_epi32(four);
        local[r][0] = P::add(local[r][0], x, b0);
        local[r][1] = P::add(local[r][1], x, b1);
      }
    }
    memcpy(sums, local, sizeof local);
  }

  alignas(64) V sums_[2][kTileRows][2];
};

/// Dot products of pairs of bfloat16.
struct Bfloat16Pairs {
  static constexpr const char* kName = "AVX-512 BF16";
  using Sum = float;
  using V = __m512;

  static FASTDIFF_INLINE V add(V sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
};

/// Dot products of four 8-bit integers.
struct Int8Quads {
  static constexpr const char* kName = "AVX-512 VNNI";
  using Sum = int32_t;
  using V = __m512i;

  static FASTDIFF_INLINE V add(V sum, __m512i a, __m512i b) {
    return _mm512_dpbusd_epi32(sum, a, b);
  }
};

bool supported() {
  return supports_avx512() && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vnni");
}

}  // namespace

const Level kAvx512Bf16 = level_of<Avx512Bf16, QuadTiles<Bfloat16Pairs>, QuadTiles<Int8Quads>>(
    "avx512_bf16", "AVX-512 F, BW, DQ, VL, VNNI and BF16", supported);

}  // namespace fastdiff::network
