// Scaled dot-product attention on a GPU: softmax(scale q k^T) v for every head of every batch.
#pragma once

#include <cstdint>

namespace fastdiff::cuda {

/// Elements from one batch, head and row to the next; within a row elements are adjacent.
struct AttentionStrides {
  int64_t batch, head, row;
};

/// q and out are (batch, heads, queries, head_size), k and v (batch, heads, keys, head_size).
/// Rows start at multiples of 16 bytes. scale and keys are more than 0.
struct Attention {
  const void *q, *k, *v;
  void* out;
  AttentionStrides q_strides, k_strides, v_strides, out_strides;
  int batch, heads, queries, keys, head_size;
  float scale;
};

/// Head sizes are multiples of 8, up to this.
constexpr int kMaxHeadSize = 160;

/// Queues the work on `stream`, a cudaStream_t: elements are float16, or bfloat16 if so said.
/// Returns 0 or a cudaError_t.
int launch_attention(const Attention& attention, bool bfloat16, void* stream);

}  // namespace fastdiff::cuda
