// The CUDA attention kernel as C functions, for the emulator.
#include "attention.cuh"

extern "C" {

/// q, k and v have element strides (batch, head, row) each, out is (batch, queries, heads, size).
int attend(const void* q, const void* k, const void* v, void* out, const int64_t* strides,
           const int* sizes, float scale, int bfloat16) {
  using fastdiff::cuda::AttentionStrides;
  const auto of = [&](int i) {
    return AttentionStrides{strides[3 * i], strides[3 * i + 1], strides[3 * i + 2]};
  };
  const fastdiff::cuda::Attention attention = {
      q,        k,        v,        out,      of(0),    of(1), of(2),
      of(3),    sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], scale};
#if defined(ONE_KERNEL)
  return bfloat16 || sizes[4] > 32
             ? -1
             : fastdiff::cuda::launch_padded<fastdiff::cuda::Float16, 32>(attention, nullptr);
#else
  return fastdiff::cuda::launch_attention(attention, bfloat16, nullptr);
#endif
}
}
