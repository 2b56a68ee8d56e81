// Lane types: SIMD vectors of one width, and the operations that the kernels need of them.
//
// `Vectors` has what the compiler's own vector types can do on any CPU. The lane type of an
// instruction level derives from it, replaces what the CPU does better, and adds `kRows`, the rows
// of a matrix product whose sums fit into registers, `broadcast` and `fma`.
#pragma once

#include <cstdint>
#include <cstring>

#include "fastdiff/scalar.h"

namespace fastdiff::network {

template <int kWidth>
struct Vectors {
  static constexpr int kLanes = kWidth;
  static constexpr bool kShort = false;  // see Short in math.h
  typedef float F __attribute__((vector_size(kWidth * 4)));
  typedef int32_t I __attribute__((vector_size(kWidth * 4)));
  typedef uint32_t U __attribute__((vector_size(kWidth * 4)));

  static FASTDIFF_INLINE F splat(float v) { return v - F{}; }
  static FASTDIFF_INLINE I splat_int(int32_t v) { return v - I{}; }
  static FASTDIFF_INLINE F load(const float* from) {
    F v;
    memcpy(&v, from, sizeof v);
    return v;
  }
  static FASTDIFF_INLINE void store(float* to, F v) { memcpy(to, &v, sizeof v); }
  /// Loads the first `count` lanes; the others become zero.
  static FASTDIFF_INLINE F load_part(const float* from, int64_t count) {
    F v = {};
    memcpy(&v, from, size_t(count) * sizeof(float));
    return v;
  }
  static FASTDIFF_INLINE void store_part(float* to, F v, int64_t count) {
    memcpy(to, &v, size_t(count) * sizeof(float));
  }
  /// Rounds to bfloat16, to nearest with ties to even, and keeps it as float32. NaN stays NaN.
  static FASTDIFF_INLINE F round_bf16(F v) {
    const U bits = (U)v;
    const U rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    return (F)((v == v ? rounded : bits | 0x400000u) & 0xffff0000u);
  }
  static FASTDIFF_INLINE void store_bf16(uint16_t* to, F v) {
    const U halves = (U)round_bf16(v) >> 16;
    uint32_t lanes[kWidth];
    memcpy(lanes, &halves, sizeof lanes);
    for (int i = 0; i < kWidth; ++i) to[i] = uint16_t(lanes[i]);
  }
  /// Rounds to the nearest integer from 0 to 255, with ties to even. NaN gives 0.
  static FASTDIFF_INLINE void store_u8(uint8_t* to, F v) {
    // 2^23: the sum is rounded to an integer, held in its low bits.
    constexpr float kShift = 8388608.0f;
    const F kept = v > 0.0f ? v : F{};
    const U bits = (U)((kept < 255.0f ? kept : splat(255.0f)) + kShift);
    uint32_t lanes[kWidth];
    memcpy(lanes, &bits, sizeof lanes);
    for (int i = 0; i < kWidth; ++i) to[i] = uint8_t(lanes[i]);
  }
  /// a / b to two roundings, for b from 2^-126 to 2^126; and for infinity.
  static FASTDIFF_INLINE F divide(F a, F b) { return a / b; }
  /// a / b to 13 bits, for the same b.
  static FASTDIFF_INLINE F divide_shortly(F a, F b) { return a / b; }
  static FASTDIFF_INLINE F max(F a, F b) { return a > b ? a : b; }
  static FASTDIFF_INLINE F min(F a, F b) { return a < b ? a : b; }
  /// The sum of all lanes. The order of additions depends on the width alone.
  static FASTDIFF_INLINE float sum(F v) {
    float lanes[kWidth];
    store(lanes, v);
    for (int half = kWidth / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    return lanes[0];
  }
};

template <class L>
FASTDIFF_INLINE int64_t at_most_lanes(int64_t count) {
  return count < L::kLanes ? count : L::kLanes;
}

/// The `live` floats that there are, then zeros.
template <class L>
FASTDIFF_INLINE typename L::F load_live(const float* from, int64_t live) {
  if (live >= L::kLanes) return L::load(from);
  return live > 0 ? L::load_part(from, live) : typename L::F{};
}
/// Stores the first `live` lanes, all that there are at most.
template <class L>
FASTDIFF_INLINE void store_live(float* to, typename L::F v, int64_t live) {
  if (live >= L::kLanes) {
    L::store(to, v);
  } else if (live > 0) {
    L::store_part(to, v, live);
  }
}

}  // namespace fastdiff::network
