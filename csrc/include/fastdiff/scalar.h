// The lane type (arithmetic.h) whose types are single values. It serves plain C++ and CUDA.
#pragma once

#include "half.h"

namespace fastdiff {

/// The operations that every lane type provides, each on a single value.
struct Scalar {
  static constexpr int kLanes = 1;
  static constexpr int kGroups = 1;  // how many Q hold the Philox counters of all lanes

  using F = StrictFloat;
  using I = int32_t;
  using U = uint32_t;
  using Q = uint64_t;

  static FASTDIFF_INLINE F splat(float v) { return v; }
  static FASTDIFF_INLINE F to_float(I v) {
#if defined(__CUDA_ARCH__)
    return __int2float_rn(v);
#else
    return float(v);
#endif
  }
  static FASTDIFF_INLINE F sqrt(F v) { return square_root(v.value); }
  /// a where a > b, else b. If b is NaN, so is the result.
  static FASTDIFF_INLINE F max(F a, F b) { return a.value > b.value ? a : b; }
  /// a where a < b, else b. If b is NaN, so is the result.
  static FASTDIFF_INLINE F min(F a, F b) { return a.value < b.value ? a : b; }
  /// `yes` where the highest bit of `sign` is set, else `no`.
  template <class T>
  static FASTDIFF_INLINE T select_negative(U sign, T yes, T no) {
    return int32_t(sign) < 0 ? yes : no;
  }

  static FASTDIFF_INLINE Q widen(uint32_t v) { return v; }
  /// The counters q, q + 1, ... in the order in which interleave() expects their results.
  static FASTDIFF_INLINE Q counters(uint32_t q, int) { return q; }
  /// The 64-bit products of the low halves of a and b.
  static FASTDIFF_INLINE Q multiply(Q a, uint32_t b) { return uint64_t(uint32_t(a)) * b; }
  static FASTDIFF_INLINE Q xor3(Q a, Q b, Q c) { return a ^ b ^ c; }
  /// Collects the low halves of all groups in one vector of 32-bit lanes.
  static FASTDIFF_INLINE U narrow(const Q (&w)[kGroups]) { return U(w[0]); }
  /// Rearranges the results of Philox, where z[k] holds component k of each quad of elements, into
  /// consecutive elements.
  static FASTDIFF_INLINE void interleave(F (&)[4]) {}

  static FASTDIFF_INLINE F load(const float* p) { return *p; }
  static FASTDIFF_INLINE void store(float* p, F v) { *p = v.value; }
  static FASTDIFF_INLINE U load_u16(const uint16_t* p) { return *p; }
  static FASTDIFF_INLINE void store_u16(uint16_t* p, U v) { *p = uint16_t(v); }
  static FASTDIFF_INLINE F load_float16(const uint16_t* p) { return float_from_float16(*p); }
  static FASTDIFF_INLINE void store_float16(uint16_t* p, F v) { *p = float16_from_float(v.value); }
};

}  // namespace fastdiff
