// Flash attention (arXiv 2205.14135, 2307.08691) on tensor cores, sm_80 and later.
//
// A block keeps kQueries rows of q in registers and walks over tiles of kKeys rows of k and v.
// While it computes one tile, cp.async copies the next one into the other of two buffers. The
// scores stay in registers: the layout in which one product leaves its result is the layout in
// which the next product takes its operand (PTX ISA, mma.m16n8k16).
//
// Of each 16 x 8 float32 fragment, lane l of a warp holds columns l % 4 * 2 and l % 4 * 2 + 1, in
// row l / 4 (elements 0 and 1) and in row l / 4 + 8 (elements 2 and 3). So four lanes share a row.
#pragma once

#include <cmath>

#include "attention.h"
#include "intrinsics.cuh"

// The compiler keeps fragments in registers only if every loop over them is unrolled. When a CPU
// compiles this file for the tests, unrolling would only take time.
#if defined(__CUDACC__)
#define FASTDIFF_UNROLL_ON_GPU FASTDIFF_UNROLL
#else
#define FASTDIFF_UNROLL_ON_GPU
#endif

namespace fastdiff::cuda {

/// The sizes of blocks and tiles, for heads that are padded to kHead elements, a multiple of 16.
template <int kHead>
struct AttentionTile {
  // Fragments of 16 rows of q in a warp. With large heads, registers suffice for one only.
  static constexpr int kFragments = kHead <= 64 ? 2 : 1;
  static constexpr int kWarps = 8 / kFragments;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kQueries = 128;
  static constexpr int kKeys = 64;
  // Rows of shared memory are an odd number of 16-byte pieces, so that the eight rows that ldmatrix
  // reads at once lie in different banks.
  static constexpr int kPitch = kHead + 8;
  static constexpr int kBuffer = 2 * kKeys * kPitch;  // elements: a tile of k, then one of v
  static constexpr size_t kSharedBytes = 2 * kBuffer * sizeof(uint16_t);
  static_assert(kQueries == 16 * kFragments * kWarps);
  static_assert(kQueries <= 2 * kKeys, "q and the result pass through one buffer");
  static_assert(kSharedBytes <= 99 * 1024, "what each GPU since sm_80 has for a block");
};

/// Starts the copy of kRows rows to shared memory, of which only `left` exist. Elements after the
/// last row or after the end of a head become zero: they are multiplied by 0 later, and 0 times NaN
/// would be NaN.
///
/// Each thread copies from one column only, so that it needs one address and not one for each copy.
template <int kHead, int kRows, class T>
__device__ __forceinline__ void load_rows(T* shared, const T* global, int64_t stride, int left,
                                          int head_size) {
  using Tile = AttentionTile<kHead>;
  constexpr int kColumns = kHead <= 32 ? 4 : kHead <= 64 ? 8 : kHead <= 128 ? 16 : 32;
  constexpr int kStep = Tile::kThreads / kColumns;
  const int column = int(threadIdx.x) % kColumns * 8;
  int row = int(threadIdx.x) / kColumns;
  if (column >= kHead) return;
  shared += row * Tile::kPitch + column;
  global += row * stride + column;
  FASTDIFF_UNROLL_ON_GPU
  for (int i = 0; i < kRows / kStep; ++i) {
    cp_async_16(shared + i * kStep * Tile::kPitch, global, row < left && column < head_size);
    row += kStep;
    global += kStep * stride;
  }
}

/// The rows of q that belong to one warp: their fragments, and the running softmax over the tiles
/// so far.
template <class T, int kHead>
struct WarpRows {
  using Tile = AttentionTile<kHead>;
  static constexpr int kFragments = Tile::kFragments;
  using Scores = float[kFragments][Tile::kKeys / 8][4];

  uint32_t q[kFragments][kHead / 16][4];
  float result[kFragments][kHead / 8][4] = {};
  float top[kFragments][2];         // the largest score of each row
  float total[kFragments][2] = {};  // this lane's part of the sum of the weights
  const int lane = int(threadIdx.x) % 32;
  const int first = int(threadIdx.x) / 32 * 16 * kFragments;  // the warp's first row in the block

  __device__ __forceinline__ void load_queries(const T* shared) {
    FASTDIFF_UNROLL_ON_GPU
    for (int f = 0; f < kFragments; ++f) {
      top[f][0] = top[f][1] = -INFINITY;
      const T* row = shared + (first + f * 16 + lane % 16) * Tile::kPitch + lane / 16 * 8;
      FASTDIFF_UNROLL_ON_GPU
      for (int d = 0; d < kHead / 16; ++d) ldmatrix<4, false>(q[f][d], row + d * 16);
    }
  }

  /// Computes scores = q k^T.
  __device__ __forceinline__ void score(const T* k, Scores& scores) const {
    const T* row = k + (lane % 8 + lane / 16 * 8) * Tile::kPitch + lane / 8 % 2 * 8;
    FASTDIFF_UNROLL_ON_GPU
    for (int d = 0; d < kHead / 16; ++d) {
      FASTDIFF_UNROLL_ON_GPU
      for (int j = 0; j < Tile::kKeys / 16; ++j) {
        uint32_t keys[4];
        ldmatrix<4, false>(keys, row + j * 16 * Tile::kPitch + d * 16);
        FASTDIFF_UNROLL_ON_GPU
        for (int f = 0; f < kFragments; ++f) {
          mma_m16n8k16<T>(scores[f][2 * j], q[f][d], {keys[0], keys[1]});
          mma_m16n8k16<T>(scores[f][2 * j + 1], q[f][d], {keys[2], keys[3]});
        }
      }
    }
  }

  /// Sets the scores of the keys from number `left` on to -inf, since these keys do not exist.
  __device__ __forceinline__ void mask(Scores& scores, int left) const {
    FASTDIFF_UNROLL_ON_GPU
    for (int f = 0; f < kFragments; ++f) {
      FASTDIFF_UNROLL_ON_GPU
      for (int j = 0; j < Tile::kKeys / 8; ++j) {
        FASTDIFF_UNROLL_ON_GPU
        for (int i = 0; i < 4; ++i) {
          if (j * 8 + lane % 4 * 2 + i % 2 >= left) scores[f][j][i] = -INFINITY;
        }
      }
    }
  }

  /// Does a step of the online softmax (arXiv 1805.02867): replaces the scores by their
  /// exponentials relative to the largest score so far, and rescales the results of earlier tiles
  /// to that score.
  __device__ __forceinline__ void weigh(Scores& scores, float scale_log2) {
    FASTDIFF_UNROLL_ON_GPU
    for (int f = 0; f < kFragments; ++f) {
      FASTDIFF_UNROLL_ON_GPU
      for (int half = 0; half < 2; ++half) {
        float highest = top[f][half];
        FASTDIFF_UNROLL_ON_GPU
        for (int j = 0; j < Tile::kKeys / 8; ++j) {
          highest = fmaxf(highest, fmaxf(scores[f][j][2 * half], scores[f][j][2 * half + 1]));
        }
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
        const float rescale = exp2_approx((top[f][half] - highest) * scale_log2);
        const float shift = -highest * scale_log2;
        float sum = total[f][half] * rescale;
        FASTDIFF_UNROLL_ON_GPU
        for (int j = 0; j < Tile::kKeys / 8; ++j) {
          FASTDIFF_UNROLL_ON_GPU
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            scores[f][j][i] = exp2_approx(fmaf(scores[f][j][i], scale_log2, shift));
            sum += scores[f][j][i];
          }
        }
        FASTDIFF_UNROLL_ON_GPU
        for (int d = 0; d < kHead / 8; ++d) {
          result[f][d][2 * half] *= rescale;
          result[f][d][2 * half + 1] *= rescale;
        }
        top[f][half] = highest;
        total[f][half] = sum;
      }
    }
  }

  /// Computes result += weights v.
  __device__ __forceinline__ void accumulate(const T* v, const Scores& weights) {
    const T* row = v + lane % 16 * Tile::kPitch + lane / 16 * 8;
    FASTDIFF_UNROLL_ON_GPU
    for (int j = 0; j < Tile::kKeys / 16; ++j) {
      uint32_t rounded[kFragments][4];
      FASTDIFF_UNROLL_ON_GPU
      for (int f = 0; f < kFragments; ++f) {
        FASTDIFF_UNROLL_ON_GPU
        for (int i = 0; i < 4; ++i) {
          const float* pair = &weights[f][2 * j + i / 2][i % 2 * 2];
          rounded[f][i] = pack<T>(pair[0], pair[1]);
        }
      }
      FASTDIFF_UNROLL_ON_GPU
      for (int d = 0; d < kHead / 16; ++d) {
        uint32_t values[4];
        ldmatrix<4, true>(values, row + j * 16 * Tile::kPitch + d * 16);
        FASTDIFF_UNROLL_ON_GPU
        for (int f = 0; f < kFragments; ++f) {
          mma_m16n8k16<T>(result[f][2 * d], rounded[f], {values[0], values[1]});
          mma_m16n8k16<T>(result[f][2 * d + 1], rounded[f], {values[2], values[3]});
        }
      }
    }
  }

  /// Writes the rows to global memory. They pass through the warp's own rows of `shared`, so that
  /// each lane can write 128 bits at once.
  __device__ __forceinline__ void store(T* shared, T* out, int64_t stride, int left,
                                        int head_size) const {
    T* const own = shared + first * Tile::kPitch;
    FASTDIFF_UNROLL_ON_GPU
    for (int f = 0; f < kFragments; ++f) {
      FASTDIFF_UNROLL_ON_GPU
      for (int half = 0; half < 2; ++half) {
        float sum = total[f][half];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        const float inverse = 1.0f / sum;
        T* const row = own + (f * 16 + half * 8 + lane / 4) * Tile::kPitch + lane % 4 * 2;
        FASTDIFF_UNROLL_ON_GPU
        for (int d = 0; d < kHead / 8; ++d) {
          const float* pair = &result[f][d][2 * half];
          *reinterpret_cast<uint32_t*>(row + d * 8) = pack<T>(pair[0] * inverse, pair[1] * inverse);
        }
      }
    }
    __syncwarp();
    constexpr int kPieces = kHead / 8;
    FASTDIFF_UNROLL_ON_GPU
    for (int i = 0; i < 16 * kFragments * kPieces / 32; ++i) {
      const int piece = i * 32 + lane;
      const int row = piece / kPieces, column = piece % kPieces * 8;
      if (first + row < left && column < head_size) {
        *reinterpret_cast<uint4*>(out + (first + row) * stride + column) =
            *reinterpret_cast<const uint4*>(own + row * Tile::kPitch + column);
      }
    }
  }
};

/// One block computes kQueries rows (blockIdx.x) of one head (blockIdx.y) of one batch
/// (blockIdx.z).
template <class T, int kHead>
__global__ void __launch_bounds__(AttentionTile<kHead>::kThreads)
    attention_kernel(const AttentionArguments a) {
  using Tile = AttentionTile<kHead>;
  const auto offset = [](AttentionStrides strides, int64_t row) {
    return blockIdx.z * strides.batch + blockIdx.y * strides.head + row * strides.row;
  };
  const int first = int(blockIdx.x) * Tile::kQueries;
  const T* const q = static_cast<const T*>(a.q) + offset(a.q_strides, first);
  const T* const k = static_cast<const T*>(a.k) + offset(a.k_strides, 0);
  const T* const v = static_cast<const T*>(a.v) + offset(a.v_strides, 0);

  FASTDIFF_DYNAMIC_SHARED(T, shared);
  const auto buffer = [&](int tile) { return shared + tile % 2 * Tile::kBuffer; };
  const auto load = [&](int tile) {
    const int64_t key = int64_t(tile) * Tile::kKeys;
    const int left = a.keys - int(key);
    T* const keys = buffer(tile);
    T* const values = keys + Tile::kKeys * Tile::kPitch;
    load_rows<kHead, Tile::kKeys>(keys, k + key * a.k_strides.row, a.k_strides.row, left,
                                  a.head_size);
    load_rows<kHead, Tile::kKeys>(values, v + key * a.v_strides.row, a.v_strides.row, left,
                                  a.head_size);
  };

  load(0);
  load_rows<kHead, Tile::kQueries>(buffer(1), q, a.q_strides.row, a.queries - first, a.head_size);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  WarpRows<T, kHead> rows;
  rows.load_queries(buffer(1));

  const float scale_log2 = a.scale * 1.44269504f;  // exponentials are in base 2
  const int tiles = (a.keys + Tile::kKeys - 1) / Tile::kKeys;
  for (int tile = 0; tile < tiles; ++tile) {
    cp_async_wait<0>();
    __syncthreads();  // this tile has arrived, and no warp reads the other buffer any more
    if (tile + 1 < tiles) {
      load(tile + 1);
      cp_async_commit();
    }
    typename WarpRows<T, kHead>::Scores scores = {};
    rows.score(buffer(tile), scores);
    const int left = a.keys - tile * Tile::kKeys;
    if (left < Tile::kKeys) rows.mask(scores, left);
    rows.weigh(scores, scale_log2);
    rows.accumulate(buffer(tile) + Tile::kKeys * Tile::kPitch, scores);
  }

  __syncthreads();  // no warp reads the buffer any more that the result passes through
  T* const out = static_cast<T*>(a.out) + offset(a.out_strides, first);
  rows.store(shared, out, a.out_strides.row, a.queries - first, a.head_size);
}

template <class T, int kHead>
int launch_attention(const AttentionArguments& a, void* stream) {
  using Tile = AttentionTile<kHead>;
  const dim3 grid((a.queries + Tile::kQueries - 1) / Tile::kQueries, a.heads, a.batches);
  return launch(attention_kernel<T, kHead>, grid, Tile::kThreads, Tile::kSharedBytes, stream, a);
}

}  // namespace fastdiff::cuda
