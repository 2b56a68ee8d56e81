// Conversions between float32 and bfloat16 or IEEE float16, rounding to nearest with ties to even.
#pragma once

#include "arithmetic.h"

namespace fastdiff {

/// Rounds a float32 to bfloat16, whose bits are the low 16 of each lane. A NaN stays a NaN of the
/// same sign.
template <class L>
FASTDIFF_INLINE typename L::U bfloat16_from_float(typename L::F value) {
  using U = typename L::U;
  const U bits = bit_cast<U>(value);
  const U rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const U quiet_nan = (bits >> 16) | 0x40u;
  const U wraps_if_nan = 0x7f800000u - (bits & 0x7fffffffu);
  return L::select_negative(wraps_if_nan, quiet_nan, rounded);
}

/// Converts the bfloat16 in the low 16 bits of each lane to float32, which is exact.
template <class L>
FASTDIFF_INLINE typename L::F float_from_bfloat16(typename L::U half) {
  return bit_cast<typename L::F>(half << 16);
}

/// Rounds a float32 to float16 and returns its bits, the same as the instruction VCVTPS2PH returns.
FASTDIFF_INLINE uint16_t float16_from_float(float value) {
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {  // NaN: keep the high bits of the payload, set the quiet bit
    return uint16_t(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
  }
  // 65536 and above become infinity. 65520 to 65536 do so by the rounding at the end.
  if (magnitude >= 0x47800000u) {
    return uint16_t(sign | 0x7c00u);
  }
  if (magnitude < 0x38800000u) {  // below 2^-14 the result is subnormal: an addition rounds it
    const float aligned = add(bit_cast<float>(magnitude), 0.5f);
    return uint16_t(sign | (bit_cast<uint32_t>(aligned) - 0x3f000000u));
  }
  magnitude += 0xfffu + (magnitude >> 13 & 1u);
  return uint16_t(sign | ((magnitude - (112u << 23)) >> 13));
}

/// Converts the bits of a float16 to float32, which is exact.
FASTDIFF_INLINE float float_from_float16(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000u) << 16;
  const uint32_t shifted = uint32_t(half & 0x7fffu) << 13;
  const uint32_t exponent = shifted & 0x0f800000u;
  uint32_t magnitude = shifted + (112u << 23);
  if (exponent == 0x0f800000u) {  // infinity or NaN
    magnitude += 112u << 23;
  } else if (exponent == 0) {  // zero or subnormal: normalise with one exact subtraction
    magnitude = bit_cast<uint32_t>(sub(bit_cast<float>(magnitude + (1u << 23)), 0x1p-14f));
  }
  return bit_cast<float>(sign | magnitude);
}

}  // namespace fastdiff
