// Products of tiles of 8-bit integers on CPUs without VNNI or AMX.
//
// Integers are widened to 16 bits and multiplied by the instructions for those, whose 32-bit sums
// are exact. The instruction for 8-bit integers of AVX2 and AVX-512 BW, VPMADDUBSW, saturates its
// sums at 16 bits.
#pragma once

#include "conv_spec.h"

namespace fastdiff::network {
namespace {

/// A tile multiplier (tile_math.h) of 8-bit integers.
///
/// W provides vectors of 16-bit integers: I, the vector type; widen() for a row of A; load() for
/// W::kColumns columns of 4 elements of B; repeat(), which fills a vector with 4 elements of A; and
/// multiply(), which multiplies and adds neighbouring pairs. A sum is therefore in two lanes until
/// it is stored.
template <class W>
struct WideTiles {
  static constexpr const char* kName = W::kName;
  using Sum = int32_t;

  void zero() { memset(sums_, 0, sizeof sums_); }

  void step(const uint8_t* a0, const uint8_t* a1, int64_t stride, const uint8_t* b) {
    alignas(64) int16_t a[2 * kTileRows][kTileRowBytes];
    for (int64_t r = 0; r < kTileRows; ++r) {
      W::widen(a0 + r * stride, a[r]);
      W::widen(a1 + r * stride, a[kTileRows + r]);
    }
    for (int v = 0; v < kVectors; v += 2) {
      const int64_t column = v * W::kColumns;
      const uint8_t* from = b + column / kTileColumns * kTileBytes + column % kTileColumns * 4;
      for (int r = 0; r < 2 * kTileRows; r += kRows) rows(&a[r], from, &sums_[r], v);
    }
  }

  void store(int32_t (&to)[2][kTileRows][kTilePanel]) const {
    for (int r = 0; r < 2 * kTileRows; ++r) {
      int32_t halves[2 * kTilePanel];
      memcpy(halves, sums_[r], sizeof halves);
      int32_t* row = to[r / kTileRows][r % kTileRows];
      for (int64_t c = 0; c < kTilePanel; ++c) row[c] = halves[2 * c] + halves[2 * c + 1];
    }
  }

 private:
  using I = typename W::I;
  static constexpr int kVectors = kTilePanel / W::kColumns;
  // Rows at a time: 8 sums, 2 vectors of B, 1 of A and 1 product are in registers.
  static constexpr int kRows = 4;

  static FASTDIFF_INLINE void rows(const int16_t (*a)[kTileRowBytes], const uint8_t* b,
                                   I (*sums)[kVectors], int vector) {
    I local[kRows][2];
    FASTDIFF_UNROLL
    for (int r = 0; r < kRows; ++r)
      local[r][0] = sums[r][vector], local[r][1] = sums[r][vector + 1];
    for (int k = 0; k < kTileRowBytes; k += 4, b += 4 * kTileColumns) {
      const I b0 = W::load(b), b1 = W::load(b + 4 * W::kColumns);
      FASTDIFF_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const I x = W::repeat(a[r] + k);
        local[r][0] += W::multiply(x, b0);
        local[r][1] += W::multiply(x, b1);
      }
    }
    FASTDIFF_UNROLL
    for (int r = 0; r < kRows; ++r)
      sums[r][vector] = local[r][0], sums[r][vector + 1] = local[r][1];
  }

  alignas(64) I sums_[2 * kTileRows][kVectors];
};

}  // namespace
}  // namespace fastdiff::network
