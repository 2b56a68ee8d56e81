// Elementary functions of vectors. All of them return NaN for NaN.
#pragma once

#include "fastdiff/arithmetic.h"
#include "lanes.h"

namespace fastdiff::network {

/// 1.5 * 2^23. Adding it to a float rounds that to an integer, which is in the low bits of the sum.
constexpr float kRounder = 0x1.8p23f;

/// log2(e).
constexpr float kLog2E = 0x1.715476p+0f;

/// L with functions that are off by less than 2^-12 of their result: enough for what has been a sum
/// of products of bfloat16, which are off by 2^-9, and half as long.
template <class L>
struct Short : L {
  using F = typename L::F;
  static constexpr bool kShort = true;
  static FASTDIFF_INLINE F divide(F a, F b) { return L::divide_shortly(a, b); }
};

/// The polynomial in x by Horner's rule, highest coefficient first.
template <class L, class... Coefficients>
FASTDIFF_INLINE typename L::F horner(typename L::F x, float highest, Coefficients... lower) {
  typename L::F p = L::splat(highest);
  ((p = L::fma(p, x, L::splat(lower))), ...);
  return p;
}

/// 2^n for integers n in [-127, 127], where 2^-127 becomes 0.
template <class L>
FASTDIFF_INLINE typename L::F power_of_two(typename L::I n) {
  return bit_cast<typename L::F>((n + 127) << 23);
}

/// The parts of e^x = 2^n (1 + rest) with |x - n ln 2| <= ln(2) / 2, by Cody and Waite's reduction
/// and a polynomial.
template <class L>
struct Exponential {
  typename L::I n;
  typename L::F rest;

  explicit FASTDIFF_INLINE Exponential(typename L::F x) {
    const auto shifted = L::fma(x, L::splat(kLog2E), L::splat(kRounder));
    const auto whole = shifted - kRounder;
    n = bit_cast<typename L::I>(shifted) - bit_cast<int32_t>(kRounder);
    auto r = L::fma(whole, L::splat(-0x1.62e4p-1f), x);  // ln 2 to 15 bits: the product is exact
    r = L::fma(whole, L::splat(-0x1.7f7d1cp-20f), r);    // the rest of ln 2
    const auto p = horner<L>(r, 0x1.6a4ce4p-10f, 0x1.123988p-7f, 0x1.5558bp-5f, 0x1.555492p-3f,
                             0x1.fffffcp-2f);
    rest = L::fma(p, r * r, r);
  }
};

/// e^x for x up to 89, subnormal results and infinity included.
template <class L>
FASTDIFF_INLINE typename L::F exp_up_to_89(typename L::F x) {
  const Exponential<L> e(L::max(L::splat(-104.0f), x));
  const typename L::I half = e.n >> 1;  // 2^n itself need not be a float
  return (e.rest + 1.0f) * power_of_two<L>(half) * power_of_two<L>(e.n - half);
}

/// e^x for all x.
template <class L>
FASTDIFF_INLINE typename L::F exp(typename L::F x) {
  return exp_up_to_89<L>(L::min(L::splat(89.0f), x));
}

/// 1.5 * 2^23 + 127: what it rounds to an integer n ends in the bits of n's exponent.
constexpr float kBiasedRounder = 0x1.8p23f + 127.0f;

/// 2^n 2^r for `biased_n` = n + kBiasedRounder, n in [-127, 127] and |r| <= 1/2. 2^-127 becomes 0.
template <class L>
FASTDIFF_INLINE typename L::F exp2_of_parts(typename L::F biased_n, typename L::F r) {
  typename L::F p;
  if constexpr (L::kShort) {
    p = horner<L>(r, 0x1.c3f7fap-5f, 0x1.f0de1cp-3f, 0x1.62f318p-1f, 0x1.fff692p-1f);
  } else {
    p = horner<L>(r, 0x1.5c0918p-10f, 0x1.3d0c54p-7f, 0x1.c6b6e4p-5f, 0x1.ebf918p-3f,
                  0x1.62e428p-1f, 1.0f);
  }
  return p * bit_cast<typename L::F>(bit_cast<typename L::I>(biased_n) << 23);
}

/// 2^x for x <= 0, which is what a softmax needs.
template <class L>
FASTDIFF_INLINE typename L::F exp2_negative(typename L::F x) {
  x = L::max(L::splat(-127.0f), x);
  const auto n = x + kBiasedRounder;
  return exp2_of_parts<L>(n, x - (n - kBiasedRounder));
}

/// 2^(x + 1/2) for x <= -1/2, rounded to bfloat16 and kept as float32. NaN stays NaN.
///
/// What is rounded is a polynomial of relative error 2^-13, so a value that close to the middle
/// between two bfloat16 may be rounded the other way. The last addition of the polynomial does the
/// rounding: float32 near 3 * 2^15 are multiples of 2^-7, as are the bfloat16 from 1 to 2. The
/// constant term, 181/128, is a multiple too, within 2^-13 of the square root of 2.
template <class L>
FASTDIFF_INLINE typename L::F rounded_exp2(typename L::F x) {
  constexpr float kSevenBits = 0x1.8p16f;
  x = L::max(L::splat(-127.0f), x);
  const auto n = x + kBiasedRounder;
  const auto p = horner<L>(x - (n - kBiasedRounder), 0x1.4858fcp-4f, 0x1.600e86p-2f, 0x1.f5d74ep-1f,
                           kSevenBits + 181.0f / 128.0f);
  return (p - kSevenBits) * bit_cast<typename L::F>(bit_cast<typename L::I>(n) << 23);
}

/// 2^(factor x) where that is in [-127.4, 128.4]: 0 from -126.5 down, infinity from 127.5 up. It
/// may be off by as many roundings as the exponent is large: for functions that are nearly constant
/// there.
template <class L>
FASTDIFF_INLINE typename L::F exp2_of_product(typename L::F x, float factor) {
  const auto n = L::fma(x, L::splat(factor), L::splat(kBiasedRounder));
  return exp2_of_parts<L>(n, L::fma(x, L::splat(factor), kBiasedRounder - n));
}

/// a / (1 + e^-x), with 1 / infinity in its tail: 0, or NaN if a is infinite.
template <class L>
FASTDIFF_INLINE typename L::F times_sigmoid(typename L::F a, typename L::F x) {
  const auto bounded = L::min(L::splat(88.0f), L::max(L::splat(-89.0f), x));
  return L::divide(a, 1.0f + exp2_of_product<L>(bounded, -kLog2E));
}

/// 1 / (1 + e^-x).
template <class L>
FASTDIFF_INLINE typename L::F sigmoid(typename L::F x) {
  return times_sigmoid<L>(L::splat(1.0f), x);
}

/// x sigmoid(x); NaN at -infinity, as in torch.
template <class L>
FASTDIFF_INLINE typename L::F silu(typename L::F x) {
  return times_sigmoid<L>(x, x);
}

constexpr int32_t kSign = int32_t(0x80000000);

template <class L>
FASTDIFF_INLINE typename L::F absolute(typename L::F x) {
  return bit_cast<typename L::F>(bit_cast<typename L::I>(x) & ~kSign);
}

template <class L>
FASTDIFF_INLINE typename L::F minus_absolute(typename L::F x) {
  return bit_cast<typename L::F>(bit_cast<typename L::I>(x) | kSign);
}

/// tanh(x), computed from e^(2 |x|) - 1, which is accurate for small x too.
template <class L>
FASTDIFF_INLINE typename L::F tanh(typename L::F x) {
  using I = typename L::I;
  const Exponential<L> e(2.0f * L::min(L::splat(10.0f), absolute<L>(x)));
  const auto scale = power_of_two<L>(e.n);
  const auto grown = L::fma(scale, e.rest, scale - 1.0f);
  const auto size = grown / (grown + 2.0f);
  return bit_cast<typename L::F>(bit_cast<I>(size) | (bit_cast<I>(x) & kSign));
}

/// x Phi(x) with the normal distribution function Phi, so x (1 + erf(x / sqrt 2)) / 2; NaN at
/// -infinity, as in torch.
///
/// Phi(-t) = e^(-t^2 / 2) R(t) for t = |x|, with R a polynomial in (t - 3.6) / (t + 3.6) whose
/// relative error is below 1e-8 up to t = 6. It is 0 from t = 13.25 on.
template <class L>
FASTDIFF_INLINE typename L::F gelu(typename L::F x) {
  const auto minus_t = L::max(L::splat(-13.26f), minus_absolute<L>(x));
  const auto s = 1.0f - L::divide(L::splat(7.2f), 3.6f - minus_t);
  typename L::F ratio;
  if constexpr (L::kShort) {
    ratio = horner<L>(s, 0x1.7226f6p-6f, -0x1.07f55ap-4f, 0x1.015d48p-3f, -0x1.77f66cp-3f,
                      0x1.a8e71ep-4f);
  } else {
    ratio =
        horner<L>(s, 0x1.72f812p-13f, 0x1.27b5eep-11f, -0x1.354ffcp-10f, -0x1.71cd8ap-9f,
                  0x1.6159ep-6f, -0x1.064e8cp-4f, 0x1.01a8e2p-3f, -0x1.780068p-3f, 0x1.a8e52cp-4f);
  }
  const auto tail = exp2_of_product<L>(minus_t * minus_t, -0.5f * kLog2E) * ratio;
  return L::fma(L::min(x, minus_t), tail, L::max(L::splat(0.0f), x));
}

/// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, which is x sigmoid(2 sqrt(2 / pi) (...)); NaN
/// at -infinity, as in torch.
template <class L>
FASTDIFF_INLINE typename L::F gelu_tanh(typename L::F x) {
  const auto inner = x * L::fma(x * x, L::splat(0x1.2444f2p-4f), L::splat(0x1.988454p+0f));
  return times_sigmoid<L>(x, inner);
}

/// x tanh(log(1 + e^x)) = x n / (n + 2) with n = e^x (e^x + 2). The factor n / (n + 2) is 1 in
/// float32 for x >= 20.
template <class L>
FASTDIFF_INLINE typename L::F mish(typename L::F x) {
  const auto e = exp_up_to_89<L>(L::min(L::splat(20.0f), x));
  const auto n = e * (e + 2.0f);
  return x * L::divide(n, n + 2.0f);
}

/// The greater of a and b; NaN if either is NaN.
template <class L>
FASTDIFF_INLINE typename L::F maximum(typename L::F a, typename L::F b) {
  return ((a > b) | (a != a)) ? a : b;
}

/// The smaller of a and b; NaN if either is NaN.
template <class L>
FASTDIFF_INLINE typename L::F minimum(typename L::F a, typename L::F b) {
  return ((a < b) | (a != a)) ? a : b;
}

/// Calls a scalar function for each lane. It serves functions of the C library that networks need
/// rarely, such as the sine of a time embedding.
template <class L, class Function>
FASTDIFF_INLINE typename L::F each(typename L::F x, Function function) {
  float lanes[L::kLanes];
  L::store(lanes, x);
  for (float& lane : lanes) lane = function(lane);
  return L::load(lanes);
}

template <class L>
FASTDIFF_INLINE typename L::F sqrt(typename L::F x) {
  return each<L>(x, [](float v) { return __builtin_sqrtf(v); });
}
template <class L>
FASTDIFF_INLINE typename L::F sin(typename L::F x) {
  return each<L>(x, [](float v) { return __builtin_sinf(v); });
}
template <class L>
FASTDIFF_INLINE typename L::F cos(typename L::F x) {
  return each<L>(x, [](float v) { return __builtin_cosf(v); });
}
/// Rounds to the nearest integer, with ties to even.
template <class L>
FASTDIFF_INLINE typename L::F round(typename L::F x) {
  return each<L>(x, [](float v) { return __builtin_rintf(v); });
}
template <class L>
FASTDIFF_INLINE typename L::F log(typename L::F x) {
  return each<L>(x, [](float v) { return __builtin_logf(v); });
}

}  // namespace fastdiff::network
