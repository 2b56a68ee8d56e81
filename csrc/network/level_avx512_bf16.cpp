// The AVX-512 level with products of bfloat16 pairs: VDPBF16PS.
#include "avx512.h"
#include "kernels.h"

namespace fastdiff::network {
namespace {

struct PairTiles {
  static constexpr const char* kName = "AVX-512 BF16";
  static constexpr int kRows = 8;  // at a time: 16 sums, 2 vectors of B and 1 of A

  __m512 sums[2][kTileRows][2];

  void zero() {
    for (auto& tile : sums) {
      for (auto& row : tile) row[0] = row[1] = _mm512_setzero_ps();
    }
  }

  void step(const uint16_t* a0, const uint16_t* a1, int64_t stride, const uint16_t* b) {
    for (int i = 0; i < 2; ++i) {
      for (int r = 0; r < kTileRows; r += kRows) {
        rows((i ? a1 : a0) + r * stride, stride, b, &sums[i][r]);
      }
    }
  }

  void store(float (&to)[2][kTileRows][kTilePanel]) const { memcpy(to, sums, sizeof sums); }

 private:
  static FASTDIFF_INLINE void rows(const uint16_t* a, int64_t stride, const uint16_t* b,
                                   __m512 (*sums)[2]) {
    __m512 local[kRows][2];
    memcpy(local, sums, sizeof local);
    for (int k = 0; k < kTileDepth / 2; ++k, b += 32) {
      const auto b0 = (__m512bh)_mm512_loadu_si512(b);
      const auto b1 = (__m512bh)_mm512_loadu_si512(b + kTileElements);
      FASTDIFF_UNROLL
      for (int r = 0; r < kRows; ++r) {
        int32_t pair;
        memcpy(&pair, a + r * stride + 2 * k, sizeof pair);
        const auto x = (__m512bh)_mm512_set1_epi32(pair);
        local[r][0] = _mm512_dpbf16_ps(local[r][0], x, b0);
        local[r][1] = _mm512_dpbf16_ps(local[r][1], x, b1);
      }
    }
    memcpy(sums, local, sizeof local);
  }
};

bool supported() { return supports_avx512() && __builtin_cpu_supports("avx512bf16"); }

}  // namespace

const Level kAvx512Bf16 =
    level_of<Avx512, PairTiles>("avx512_bf16", "AVX-512 F, BW, DQ, VL and BF16", supported);

}  // namespace fastdiff::network
