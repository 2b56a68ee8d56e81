// The 16-bit element types. They are bits in memory; all arithmetic is in float32.
#pragma once

#include "fastdiff/scalar.h"

namespace fastdiff::cuda {

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

FASTDIFF_INLINE float to_float(float value) { return value; }
FASTDIFF_INLINE float to_float(BFloat16 value) {
  return bit_cast<float>(uint32_t(value.bits) << 16);
}

#if defined(__CUDA_ARCH__)

FASTDIFF_INLINE float to_float(Float16 value) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
}

/// Rounds two floats, to nearest with ties to even, into one register: the first into its low half.
template <class T>
FASTDIFF_INLINE uint32_t pack(float first, float second);
template <>
FASTDIFF_INLINE uint32_t pack<Float16>(float first, float second) {
  uint32_t result;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(second), "f"(first));
  return result;
}
template <>
FASTDIFF_INLINE uint32_t pack<BFloat16>(float first, float second) {
  uint32_t result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(second), "f"(first));
  return result;
}

#else

FASTDIFF_INLINE float to_float(Float16 value) { return float_from_float16(value.bits); }

template <class T>
FASTDIFF_INLINE uint32_t pack(float first, float second);
template <>
FASTDIFF_INLINE uint32_t pack<Float16>(float first, float second) {
  return uint32_t(float16_from_float(second)) << 16 | float16_from_float(first);
}
template <>
FASTDIFF_INLINE uint32_t pack<BFloat16>(float first, float second) {
  return bfloat16_from_float<Scalar>(second) << 16 | (bfloat16_from_float<Scalar>(first) & 0xffffu);
}

#endif

/// Converts element 0 (the low half) or 1 of a register to float32.
template <class T>
FASTDIFF_INLINE float unpack(uint32_t pair, int element) {
  return to_float(T{uint16_t(pair >> 16 * element)});
}

}  // namespace fastdiff::cuda
