// The attention kernel for one type and head size: it compiles fast, edited or not.
#include "attention.cuh"

int fastdiff_cuda_attention(const fastdiff::cuda::AttentionArguments* arguments, void* stream) {
  using namespace fastdiff::cuda;
  return launch_attention<Float16, 32>(*arguments, stream);
}
