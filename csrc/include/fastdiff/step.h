// The solver step: records and arithmetic of docs/contracts.md.
#pragma once

#include "exponential.h"

namespace fastdiff {

constexpr int kColumns = 8;       // x, P1, P2, P3, P4, D, m, z
constexpr int kHistorySlots = 4;  // history slot j is column j
enum Column { kX = 0, kD = 5, kM = 6, kZ = 7 };

/// One solver step. `x` and `h` hold one coefficient for each column.
struct TableRow {
  float x[kColumns];
  float h[kColumns];
  float p, q, clip;
  float c_in_next;
  float t;
  float w;
  int32_t dst;  // history slot that h writes, 0 for none
  int32_t pad;
};
static_assert(sizeof(TableRow) == 96, "TABLE_ROW of docs/contracts.md is 96 bytes");

/// One row of a batch.
struct BatchRow {
  uint64_t seed;
  uint64_t image;
  int32_t table_row;
  int32_t slot;
  uint32_t draw;
  float guidance;
  int32_t cond;
  int32_t uncond;  // -1 for none
};
static_assert(sizeof(BatchRow) == 40, "BATCH_ROW of docs/contracts.md is 40 bytes");

/// Which terms a row of the table counts; a term that does not count is skipped, not multiplied by
/// 0.
template <int kHistory_, bool kOutput_, bool kNoise_, bool kWrite_>
struct Terms {
  static constexpr int kHistory = kHistory_;  // history slots that are read
  static constexpr bool kOutput = kOutput_;   // m is counted directly, not only through D
  static constexpr bool kNoise = kNoise_;
  static constexpr bool kWrite = kWrite_;  // a history slot is written
};

/// The coefficients of one linear combination, with the history columns that count in front.
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

/// D = min(max(p x + q m, -clip), clip); clip = inf changes nothing and a NaN comes through.
template <class L>
FASTDIFF_INLINE typename L::F denoised(typename L::F x, typename L::F m, const TableRow& row) {
  const typename L::F D = x * row.p + m * row.q;
  return L::min(L::splat(row.clip), L::max(L::splat(-row.clip), D));
}

/// ((((c_x x) + c_D D) + c_m m) + c_j P_j for j upwards) + c_z z
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
