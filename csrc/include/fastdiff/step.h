// The solver step: its records and its arithmetic, as docs/contracts.md defines them.
#pragma once

#include "exponential.h"

namespace fastdiff {

constexpr int kColumns = 8;       // x, P1, P2, P3, P4, D, m, z
constexpr int kHistorySlots = 4;  // P1 to P4: history slot j is column j
enum Column { kX = 0, kD = 5, kM = 6, kZ = 7 };

/// One row of a solver's table: one evaluation of the network and the update after it. `x` and `h`
/// hold one coefficient for each column; the first become x', the second what the history keeps.
struct TableRow {
  float x[kColumns];
  float h[kColumns];
  float p, q, clip;
  float c_in_next;
  float t;
  float w;
  int32_t dst;  // the history slot that h writes, 0 for none
  int32_t pad;
};
static_assert(sizeof(TableRow) == 96, "TABLE_ROW of docs/contracts.md is 96 bytes");

/// One row of a batch: an image that takes its next step.
struct BatchRow {
  uint64_t seed;
  uint64_t image;
  int32_t table_row;
  int32_t slot;
  uint32_t draw;
  float guidance;
  int32_t cond;
  int32_t uncond;  // the output row of the unconditional branch, -1 for none
};
static_assert(sizeof(BatchRow) == 40, "BATCH_ROW of docs/contracts.md is 40 bytes");

/// Which terms a row of the table uses. A term with coefficients of zero is skipped and not added
/// as a product with 0, which would be NaN where its value is infinite or NaN.
template <int kHistory_, bool kOutput_, bool kNoise_, bool kWrite_>
struct Terms {
  static constexpr int kHistory = kHistory_;  // how many history slots are read
  static constexpr bool kOutput = kOutput_;   // whether m has a term of its own, beside D
  static constexpr bool kNoise = kNoise_;     // whether noise is added
  static constexpr bool kWrite = kWrite_;     // whether a history slot is written
};

/// The coefficients of one linear combination. P has those of the history slots that are read, in
/// ascending order of the slots.
template <class L, class T>
struct Combination {
  typename L::F x, D, m, z, P[T::kHistory + 1];

  FASTDIFF_INLINE Combination(const float* row, const int* slots)
      : x(L::splat(row[kX])), D(L::splat(row[kD])), m(L::splat(row[kM])), z(L::splat(row[kZ])) {
    FASTDIFF_UNROLL
    for (int j = 0; j < T::kHistory; ++j) P[j] = L::splat(row[slots[j]]);
  }
};

/// m = m_u + g (m_c - m_u)
template <class L>
FASTDIFF_INLINE typename L::F guided(typename L::F m_u, typename L::F m_c, float guidance) {
  return m_u + (m_c - m_u) * guidance;
}

/// D = min(max(p x + q m, -clip), clip). An infinite `clip` changes nothing, and NaN stays NaN.
template <class L>
FASTDIFF_INLINE typename L::F denoised(typename L::F x, typename L::F m, const TableRow& row) {
  const typename L::F D = x * row.p + m * row.q;
  return L::min(L::splat(row.clip), L::max(L::splat(-row.clip), D));
}

/// c_x x + c_D D + c_m m + (c_j P_j for ascending j) + c_z z, added up from left to right.
template <class L, class T>
FASTDIFF_INLINE typename L::F combine(const Combination<L, T>& c, typename L::F x, typename L::F D,
                                      typename L::F m, const typename L::F (&P)[T::kHistory + 1],
                                      typename L::F z) {
  typename L::F t = c.x * x;
  t = t + c.D * D;
  if constexpr (T::kOutput) t = t + c.m * m;
  FASTDIFF_UNROLL
  for (int j = 0; j < T::kHistory; ++j) t = t + c.P[j] * P[j];
  if constexpr (T::kNoise) t = t + c.z * z;
  return t;
}

}  // namespace fastdiff
