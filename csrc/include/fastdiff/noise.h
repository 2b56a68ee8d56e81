// Counter-based standard normal noise with the same bits on every device.
//
//   z = f(seed 64 bits, image 48, draw 32, tag 8, element 42)
//
// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a
// counter into four random words, and the Box-Muller transform turns two words into two normals.
// The logarithm, sine and cosine are polynomials in float32, so that no mathematics library can
// change the bits. docs/noise.md gives the layout, the accuracy and the statistics.
#pragma once

#include "arithmetic.h"

namespace fastdiff {

constexpr uint32_t kTagInitial = 0;  // the initial noise x_T
constexpr uint32_t kTagStep = 1;     // the noise of a step; the draw is the number of the step

/// The words of a Philox key and counter that are the same for all elements of an image.
struct NoiseKey {
  uint32_t key0, key1, counter1, counter2, counter3;
};

/// Packs seed (64 bits), image (48), draw (32) and tag (8) as docs/noise.md lays them out.
FASTDIFF_INLINE NoiseKey noise_key(uint64_t seed, uint64_t image, uint32_t draw, uint32_t tag) {
  return NoiseKey{uint32_t(seed), uint32_t(seed >> 32), draw, uint32_t(image),
                  tag << 24 | uint32_t(image >> 32 & 0xffffu)};
}

/// The keys of the ten rounds of Philox, repeated in all lanes. They are computed once for each
/// image.
template <class L>
struct RoundKeys {
  typename L::Q keys[10][2];

  FASTDIFF_INLINE RoundKeys(uint32_t key0, uint32_t key1) {
    FASTDIFF_UNROLL
    for (uint32_t round = 0; round < 10; ++round) {
      keys[round][0] = L::widen(key0 + round * 0x9E3779B9u);
      keys[round][1] = L::widen(key1 + round * 0xBB67AE85u);
    }
  }
};

/// Runs Philox4x32-10 on N groups of counters, in place. Only the low 32 bits of each element of
/// `c` are used.
template <class L, int N>
FASTDIFF_INLINE void philox(typename L::Q (&c)[4][N], const RoundKeys<L>& round_keys) {
  using Q = typename L::Q;
  FASTDIFF_UNROLL
  for (int round = 0; round < 10; ++round) {
    FASTDIFF_UNROLL
    for (int g = 0; g < N; ++g) {
      const Q p0 = L::multiply(c[0][g], 0xD2511F53u);
      const Q p1 = L::multiply(c[2][g], 0xCD9E8D57u);
      c[0][g] = L::xor3(p1 >> 32, c[1][g], round_keys.keys[round][0]);
      c[2][g] = L::xor3(p0 >> 32, c[3][g], round_keys.keys[round][1]);
      c[1][g] = p1;
      c[3][g] = p0;
    }
  }
}

/// -2 ln u, where u = (word / 2 + 1/2) / 2^31 is the midpoint of one of 2^31 equal cells of (0, 1).
template <class L>
FASTDIFF_INLINE typename L::F minus_two_log(typename L::U word) {
  using F = typename L::F;
  using I = typename L::I;
  constexpr int32_t kSqrtHalf = 0x3f3504f3;  // bits of sqrt(1/2), where the mantissa is split

  const F x = L::to_float((I)(word >> 1)) + 0.5f;
  const I split = bit_cast<I>(x) - (kSqrtHalf + (31 << 23));
  const F n = L::to_float(split >> 23);  // u = 2^n (1 + f), n = -32..0
  const F f = bit_cast<F>((split & 0x7fffff) + kSqrtHalf) - 1.0f;
  const F ff = f * f;
  // 2 ln(1 + f) = 2f - f^2 + f^3 P(f) on [sqrt(1/2) - 1, sqrt(2) - 1)
  const F p = polynomial<L>(f, 0x1.6fd9d8p-3f, -0x1.26cce6p-2f, 0x1.305b68p-2f, -0x1.5312eep-2f,
                            0x1.98edd2p-2f, -0x1.0005ep-1f, 0x1.55567ap-1f);
  F t = ff - (f * ff) * p;
  t = t - n * 0x1.7f7d1cp-19f;  // 2 ln 2, low part
  t = t - (f + f);
  return t - n * 0x1.62e4p+0f;  // 2 ln 2, high part: 15 bits, so the product is exact
}

/// A point of the unit circle from 32 bits. One bit is the sign of the cosine, one exchanges sine
/// and cosine, and 30 bits are the angle.
template <class L>
FASTDIFF_INLINE void unit_circle(typename L::U word, typename L::F& first, typename L::F& second) {
  using F = typename L::F;
  using I = typename L::I;
  using U = typename L::U;
  // The angle is pi/4 x, where x is the midpoint of a cell of (-1, 1) and therefore never 0.
  const F x = L::to_float((I)((word << 2) | 2u)) * 0x1p-31f;
  const F xx = x * x;
  const F sine =
      polynomial<L>(xx, -0x1.33198ep-15f, 0x1.4680a4p-9f, -0x1.4abc24p-4f, 0x1.921fb6p-1f) * x;
  const F cosine =
      polynomial<L>(xx, 0x1.d4f632p-19f, -0x1.55b2b4p-12f, 0x1.03c1b0p-6f, -0x1.3bd3ccp-2f, 1.0f);
  const F signed_cosine = bit_cast<F>(bit_cast<U>(cosine) ^ (word & 0x80000000u));
  first = L::select_negative(word << 1, sine, signed_cosine);
  second = L::select_negative(word << 1, signed_cosine, sine);
}

/// Computes two independent standard normals from two random words. |z| is at most
/// sqrt(64 ln 2) = 6.660.
template <class L>
FASTDIFF_INLINE void box_muller(typename L::U radius_word, typename L::U angle_word,
                                typename L::F& z0, typename L::F& z1) {
  const typename L::F radius = L::sqrt(minus_two_log<L>(radius_word));
  typename L::F first, second;
  unit_circle<L>(angle_word, first, second);
  z0 = radius * first;
  z1 = radius * second;
}

/// Computes the normals of elements 4 quad to 4 (quad + kLanes) - 1, in order. `quad` must be a
/// multiple of kLanes.
template <class L>
FASTDIFF_INLINE void normals(const NoiseKey& key, const RoundKeys<L>& round_keys, uint64_t quad,
                             typename L::F (&z)[4]) {
  typename L::Q c[4][L::kGroups];
  FASTDIFF_UNROLL
  for (int g = 0; g < L::kGroups; ++g) {
    c[0][g] = L::counters(uint32_t(quad), g);
    c[1][g] = L::widen(key.counter1);
    c[2][g] = L::widen(key.counter2);
    c[3][g] = L::widen(key.counter3 | uint32_t(quad >> 32) << 16);
  }
  philox<L>(c, round_keys);
  box_muller<L>(L::narrow(c[0]), L::narrow(c[1]), z[0], z[1]);
  box_muller<L>(L::narrow(c[2]), L::narrow(c[3]), z[2], z[3]);
  L::interleave(z);
}

}  // namespace fastdiff
