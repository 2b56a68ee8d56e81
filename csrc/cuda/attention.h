// Scaled dot-product attention on a GPU: softmax(scale q k^T) v for every head of every batch.
#pragma once

#include "launch.h"

namespace fastdiff::cuda {

/// The elements from one batch, head or row to the next. Within a row, elements are contiguous.
struct AttentionStrides {
  int64_t batch, head, row;
};

/// q and out are (batches, heads, queries, head_size), k and v (batches, heads, keys, head_size).
/// Rows start at multiples of 16 bytes. No size is 0, and the scale is more than 0.
struct AttentionArguments {
  const void *q, *k, *v;
  void* out;
  AttentionStrides q_strides, k_strides, v_strides, out_strides;
  int32_t batches, heads, queries, keys;
  int32_t head_size;  // a multiple of 8, up to kMaxHeadSize
  float scale;
  ElementType type;  // of all four: kFloat16 or kBFloat16
};

constexpr int kMaxHeadSize = 160;

}  // namespace fastdiff::cuda

extern "C" {
int fastdiff_cuda_attention(const fastdiff::cuda::AttentionArguments* arguments, void* stream);
}
