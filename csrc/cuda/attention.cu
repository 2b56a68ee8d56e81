#include "attention.cuh"

namespace fastdiff::cuda {
namespace {

/// Launches the kernel of the smallest compiled head size that holds `head_size`.
template <class T>
int launch_attention(const AttentionArguments& a, void* stream) {
  if (a.head_size <= 32) return launch_attention<T, 32>(a, stream);
  if (a.head_size <= 48) return launch_attention<T, 48>(a, stream);
  if (a.head_size <= 64) return launch_attention<T, 64>(a, stream);
  if (a.head_size <= 80) return launch_attention<T, 80>(a, stream);
  if (a.head_size <= 128) return launch_attention<T, 128>(a, stream);
  return launch_attention<T, kMaxHeadSize>(a, stream);
}

}  // namespace
}  // namespace fastdiff::cuda

int fastdiff_cuda_attention(const fastdiff::cuda::AttentionArguments* arguments, void* stream) {
  using namespace fastdiff::cuda;
  return arguments->type == ElementType::kBFloat16 ? launch_attention<BFloat16>(*arguments, stream)
                                                   : launch_attention<Float16>(*arguments, stream);
}
