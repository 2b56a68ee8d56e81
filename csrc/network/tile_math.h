// Products of bfloat16 tiles in plain arithmetic: the definition, and the one that runs everywhere.
//
// A policy keeps 32 x 32 sums: step() adds two tiles of A, 16 x 32 with `stride` elements from row
// to row, times two tiles of B in pairs, b[tile][k / 2][column][k % 2].
#pragma once

#include "layout.h"

namespace fastdiff::network {
namespace {

struct PlainTiles {
  static constexpr const char* kName = "plain arithmetic";

  float sums[2][kTileRows][kTilePanel];

  void zero() { memset(sums, 0, sizeof sums); }

  void step(const uint16_t* a0, const uint16_t* a1, int64_t stride, const uint16_t* b) {
    for (int i = 0; i < 2; ++i) {
      for (int64_t r = 0; r < kTileRows; ++r) {
        const uint16_t* a = (i ? a1 : a0) + r * stride;
        for (int64_t k = 0; k < kTileDepth; ++k) {
          const float x = widen(a[k]);
          for (int64_t c = 0; c < kTilePanel; ++c) {
            const int64_t column = c % 16, tile = c / 16;
            sums[i][r][c] += x * widen(b[tile * kTileElements + (k / 2 * 16 + column) * 2 + k % 2]);
          }
        }
      }
    }
  }

  void store(float (&to)[2][kTileRows][kTilePanel]) const { memcpy(to, sums, sizeof sums); }

 private:
  static float widen(uint16_t half) {
    const uint32_t bits = uint32_t(half) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
};

}  // namespace
}  // namespace fastdiff::network
