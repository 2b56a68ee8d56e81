// mma.sync and ldmatrix. The layouts of fragments are those of the PTX manual, section "Warp-level
// matrix instructions", in the figures of mma.m16n8k16 (.f16 and .bf16) and of ldmatrix.
#pragma once

#include "collectives.h"
#include "elements.cuh"

namespace fastdiff::cuda {

/// Computes D = A B + D: A is 16 x 16 and row-major, B 16 x 8 and column-major, D 16 x 8 in
/// float32.
///
/// A lane holds the following elements, where group = lane / 4 and pair = 2 (lane % 4). A register
/// of a or b holds two elements: the one that is named and the next.
///
///   a[0], a[1]  A[group][pair], A[group + 8][pair]
///   a[2], a[3]  A[group][pair + 8], A[group + 8][pair + 8]
///   b[0], b[1]  B[pair][group], B[pair + 8][group]
///   d[0], d[1]  D[group][pair], D[group][pair + 1]
///   d[2], d[3]  D[group + 8][pair], D[group + 8][pair + 1]
///
/// Hardware does not specify the order of additions. Here a sum is exact, and rounded once at the
/// end.
template <class T>
inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         EMULATOR_HERE) {
  struct Fragment {
    uint32_t a[4], b[2];
    float d[4];
  };
  struct Result {
    float d[4];
  };
  Fragment mine;
  memcpy(mine.a, a, sizeof a), memcpy(mine.b, b, sizeof b), memcpy(mine.d, d, sizeof d);
  const auto compute = [](const Fragment* in, Result* out, uint32_t) {
    double A[16][16], B[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const int group = lane / 4, pair = lane % 4 * 2;
      for (int i = 0; i < 2; ++i) {
        for (int r = 0; r < 4; ++r) {
          A[group + r % 2 * 8][pair + r / 2 * 8 + i] = unpack<T>(in[lane].a[r], i);
        }
        for (int r = 0; r < 2; ++r) B[pair + r * 8 + i][group] = unpack<T>(in[lane].b[r], i);
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        double sum = in[lane].d[i];
        for (int k = 0; k < 16; ++k) sum += A[row][k] * B[k][column];
        out[lane].d[i] = float(sum);
      }
    }
    ++emulator::counters().matrix_products;
  };
  const Result result =
      emulator::collective<Result>(EMULATOR_SITE("mma.m16n8k16"), ~0u, mine, compute);
  memcpy(d, result.d, sizeof d);
}

/// Loads kMatrices matrices of 8 x 8 16-bit elements from shared memory. Lanes 8 i to 8 i + 7 pass
/// the addresses of the rows of matrix i, each 16 aligned bytes. Lane l then holds in r[i] the
/// elements [l / 4][2 (l % 4)] and [l / 4][2 (l % 4) + 1] of matrix i, or of its transpose with
/// kTransposed.
template <int kMatrices, bool kTransposed>
inline void ldmatrix(uint32_t (&r)[kMatrices], const void* row, EMULATOR_HERE) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4);
  struct Result {
    uint32_t r[kMatrices];
  };
  const emulator::Site site = EMULATOR_SITE("ldmatrix");
  const auto compute = [&](const uint16_t* const* rows, Result* out, uint32_t) {
    for (int matrix = 0; matrix < kMatrices; ++matrix) {
      const uint16_t* const* of = rows + matrix * 8;
      uint32_t banks = 0;  // 32 banks of 4 bytes; a row of 16 bytes covers four in a row
      for (int i = 0; i < 8; ++i) {
        const uintptr_t address = reinterpret_cast<uintptr_t>(of[i]);
        if (address % 16) emulator::Block::current().fail(site.text() + " of an unaligned row");
        if (!emulator::Block::current().shared.owns(of[i])) {
          emulator::Block::current().fail(site.text() + " of a row outside of shared memory");
        }
        banks |= 1u << address / 16 % 8;
      }
      emulator::counters().bank_conflicts += uint64_t(8 - __builtin_popcount(banks));
      for (int lane = 0; lane < 32; ++lane) {
        const int i = lane / 4, j = lane % 4 * 2;
        const uint32_t low = kTransposed ? of[j][i] : of[i][j];
        const uint32_t high = kTransposed ? of[j + 1][i] : of[i][j + 1];
        out[lane].r[matrix] = high << 16 | low;
      }
    }
    ++emulator::counters().matrix_loads;
  };
  const Result result =
      emulator::collective<Result>(site, ~0u, static_cast<const uint16_t*>(row), compute);
  memcpy(r, result.r, sizeof r);
}

}  // namespace fastdiff::cuda
