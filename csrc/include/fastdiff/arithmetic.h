// Strict binary32 arithmetic: every operation is rounded once, to nearest even, on every compiler.
//
// The formulas of fastdiff are templates over a lane type L, which provides the value types and the
// few operations that have no operator in C++:
//
//   L::F  float32    L::I  int32    L::U  uint32    L::Q  uint64, one 32-bit word in the low half
//
// In Scalar (scalar.h) each of these is a single value; it serves plain C++ and CUDA. In the lane
// types of csrc/cpu each is a SIMD vector. So the same source of the arithmetic serves all devices.
#pragma once

#include <cfloat>
#include <cstdint>
#include <cstring>

#if defined(__FAST_MATH__)
#error "fastdiff promises bits: compile without -ffast-math (or -Ofast, --use_fast_math)"
#endif
#if !defined(__CUDACC__) && (!defined(FLT_EVAL_METHOD) || FLT_EVAL_METHOD != 0)
#error \
    "fastdiff promises bits: float must be evaluated as float (on 32-bit x86: -msse2 -mfpmath=sse)"
#endif

#if defined(__CUDACC__)
#define FASTDIFF_INLINE __host__ __device__ __forceinline__
#define FASTDIFF_UNROLL _Pragma("unroll")
#elif defined(__clang__)
#define FASTDIFF_INLINE inline __attribute__((always_inline))
#define FASTDIFF_UNROLL _Pragma("unroll")
#else
#define FASTDIFF_INLINE inline __attribute__((always_inline))
#define FASTDIFF_UNROLL _Pragma("GCC unroll 16")
#endif

namespace fastdiff {

// The _rn intrinsics are never contracted into a fused multiply-add, whatever -fmad says. On a host
// the build passes -ffp-contract=off, and the module proves at import that it was obeyed.
#if defined(__CUDA_ARCH__)
FASTDIFF_INLINE float add(float a, float b) { return __fadd_rn(a, b); }
FASTDIFF_INLINE float sub(float a, float b) { return __fsub_rn(a, b); }
FASTDIFF_INLINE float mul(float a, float b) { return __fmul_rn(a, b); }
FASTDIFF_INLINE float square_root(float a) { return __fsqrt_rn(a); }
#else
FASTDIFF_INLINE float add(float a, float b) { return a + b; }
FASTDIFF_INLINE float sub(float a, float b) { return a - b; }
FASTDIFF_INLINE float mul(float a, float b) { return a * b; }
FASTDIFF_INLINE float square_root(float a) { return __builtin_sqrtf(a); }
#endif

/// A float whose operators call the functions above. With it, formulas can be written with
/// operators and are still rounded after every operation on a GPU.
struct StrictFloat {
  float value;

  StrictFloat() = default;
  FASTDIFF_INLINE constexpr StrictFloat(float v) : value(v) {}

  friend FASTDIFF_INLINE StrictFloat operator+(StrictFloat a, StrictFloat b) {
    return add(a.value, b.value);
  }
  friend FASTDIFF_INLINE StrictFloat operator-(StrictFloat a, StrictFloat b) {
    return sub(a.value, b.value);
  }
  friend FASTDIFF_INLINE StrictFloat operator*(StrictFloat a, StrictFloat b) {
    return mul(a.value, b.value);
  }
};

/// Returns the bits of `from` as a value of another type of the same size.
template <class To, class From>
FASTDIFF_INLINE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

/// The polynomial in x by Horner's rule, highest coefficient first. Each step is one multiplication
/// and one addition, and each of them is rounded.
template <class L, class... Coefficients>
FASTDIFF_INLINE typename L::F polynomial(typename L::F x, float highest, Coefficients... lower) {
  typename L::F p = L::splat(highest);
  ((p = p * x + lower), ...);
  return p;
}

}  // namespace fastdiff
