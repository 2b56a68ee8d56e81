// Products of tiles in plain arithmetic, which define what any tile multiplier computes and run on
// every CPU.
//
// A tile multiplier, the template parameter T of the kernels, keeps 32 x 32 sums and provides
//
//   T::Sum              the type of the sums: float, or int32_t for 8-bit integers
//   T::kName            the instructions that it uses, in words
//   zero()              sets the sums to zero
//   step(a0, a1, s, b)  adds the product of two tiles of A and two tiles of B
//   store(to)           stores the sums
//
// The tiles of A begin at a0 and a1: each has 16 rows of 64 bytes, which are s bytes apart. The
// tiles of B follow each other: b[tile][k / kGroup][column][k % kGroup], where kGroup elements take
// 4 bytes.
#pragma once

#include "conv_spec.h"

namespace fastdiff::network {
namespace {

/// The tile multiplier in plain arithmetic. E provides the element types A and B, the type Sum, and
/// widen(), which converts an element to Sum.
template <class E>
struct PlainTiles {
  static constexpr const char* kName = "plain arithmetic";
  using Sum = typename E::Sum;

  Sum sums[2][kTileRows][kTilePanel];

  void zero() { memset(sums, 0, sizeof sums); }

  void step(const uint8_t* a0, const uint8_t* a1, int64_t stride, const uint8_t* b) {
    constexpr int64_t kDepth = kTileRowBytes / sizeof(typename E::A), kGroup = kDepth / 16;
    for (int i = 0; i < 2; ++i) {
      for (int64_t r = 0; r < kTileRows; ++r) {
        const uint8_t* a = (i ? a1 : a0) + r * stride;
        for (int64_t k = 0; k < kDepth; ++k) {
          const Sum x = E::widen(at<typename E::A>(a, k));
          for (int64_t c = 0; c < kTilePanel; ++c) {
            const uint8_t* tile = b + c / kTileColumns * kTileBytes;
            const int64_t from = (k / kGroup * kTileColumns + c % kTileColumns) * kGroup;
            sums[i][r][c] += x * E::widen(at<typename E::B>(tile, from + k % kGroup));
          }
        }
      }
    }
  }

  void store(Sum (&to)[2][kTileRows][kTilePanel]) const { memcpy(to, sums, sizeof sums); }

 private:
  template <class T>
  static T at(const uint8_t* from, int64_t index) {
    T value;
    memcpy(&value, from + index * int64_t(sizeof value), sizeof value);
    return value;
  }
};

/// Elements of bfloat16 for PlainTiles, with float32 sums.
struct Bfloat16 {
  using A = uint16_t;
  using B = uint16_t;
  using Sum = float;

  static float widen(uint16_t half) {
    const uint32_t bits = uint32_t(half) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
};

/// Elements of 8-bit integers for PlainTiles: A is unsigned, B is signed.
struct Int8 {
  using A = uint8_t;
  using B = int8_t;
  using Sum = int32_t;

  static int32_t widen(int32_t value) { return value; }
};

}  // namespace
}  // namespace fastdiff::network
