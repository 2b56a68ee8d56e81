// How a kernel over the rows of a batch is divided into blocks.
#pragma once

#include "vectors.cuh"

namespace fastdiff::cuda {

constexpr int kThreads = 128;

/// Blocks of a row: each thread takes kVector elements, and goes round again in very long rows.
inline unsigned blocks_of(int64_t elements) {
  constexpr int64_t kBlock = int64_t(kThreads) * kVector, kMost = 1024;
  const int64_t blocks = (elements + kBlock - 1) / kBlock;
  return unsigned(blocks < 1 ? 1 : blocks < kMost ? blocks : kMost);
}

/// Rows are the second dimension of the grid, of which CUDA allows this many.
constexpr int64_t kMaxRows = 65535;

/// Calls f(span) for the parts of a row that this thread works on.
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
