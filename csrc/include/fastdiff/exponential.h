// A float32 exponential that uses only +, -, * and integer operations, so that it has the same bits
// on every device.
#pragma once

#include "arithmetic.h"

namespace fastdiff {

/// e^x for x clamped to [-87, 88], where the result is finite and normal. NaN gives NaN.
///
/// Cody and Waite's reduction writes x = n ln 2 + r with |r| <= ln(2) / 2, and a polynomial gives
/// e^r. The error is below 0.99 ulp for every float32 of the range, which
/// tests/kernels/test_exponential.py tries.
template <class L>
FASTDIFF_INLINE typename L::F exponential(typename L::F x) {
  using F = typename L::F;
  using U = typename L::U;
  constexpr float kShift = 0x1.8p23f;  // adding it leaves a rounded integer in the low bits

  x = L::min(L::splat(88.0f), L::max(L::splat(-87.0f), x));
  const F shifted = x * 0x1.715476p+0f + kShift;  // log2(e)
  const F n = shifted - kShift;
  F r = x - n * 0x1.62e4p-1f;   // ln 2, high part: 15 bits, so the product is exact
  r = r - n * 0x1.7f7d1cp-20f;  // ln 2, low part
  const F p = polynomial<L>(r, 0x1.6a4ce4p-10f, 0x1.123988p-7f, 0x1.5558bp-5f, 0x1.555492p-3f,
                            0x1.fffffcp-2f);
  const F mantissa = (p * (r * r) + r) + 1.0f;
  const U exponent = bit_cast<U>(shifted) - bit_cast<uint32_t>(kShift);
  return mantissa * bit_cast<F>((exponent + 127u) << 23);
}

}  // namespace fastdiff
