// How the work of a kernel on the rows of a batch is divided into blocks.
#pragma once

#include "vectors.cuh"

namespace fastdiff::cuda {

constexpr int kThreads = 128;

/// The number of blocks of a row. A thread takes kVector elements at a time; in very long rows it
/// does so more than once.
inline unsigned blocks_of(int64_t elements) {
  constexpr int64_t kBlock = int64_t(kThreads) * kVector, kMost = 1024;
  const int64_t blocks = (elements + kBlock - 1) / kBlock;
  return unsigned(blocks < 1 ? 1 : blocks < kMost ? blocks : kMost);
}

/// The most rows of a launch: rows are the second dimension of the grid, which CUDA limits to this.
constexpr int64_t kMaxRows = 65535;

/// Calls f(span) for each part of a row that belongs to this thread.
template <class F>
__device__ __forceinline__ void each_span(int64_t elements, bool is_aligned, F f) {
  const int64_t stride = int64_t(gridDim.x) * kThreads * kVector;
  int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kVector;
  for (; first < elements; first += stride) {
    const int64_t rest = elements - first;
    const int live = rest < kVector ? int(rest) : kVector;
    f(Span{first, live, is_aligned && live == kVector});
  }
}

}  // namespace fastdiff::cuda
