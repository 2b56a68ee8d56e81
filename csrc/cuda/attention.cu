#include "attention.cuh"

namespace fastdiff::cuda {
namespace {

template <class T>
int launch_typed(const Attention& a, void* stream) {
  if (a.head_size <= 32) return launch_padded<T, 32>(a, stream);
  if (a.head_size <= 48) return launch_padded<T, 48>(a, stream);
  if (a.head_size <= 64) return launch_padded<T, 64>(a, stream);
  if (a.head_size <= 80) return launch_padded<T, 80>(a, stream);
  if (a.head_size <= 128) return launch_padded<T, 128>(a, stream);
  return launch_padded<T, kMaxHeadSize>(a, stream);
}

}  // namespace

int launch_attention(const Attention& attention, bool bfloat16, void* stream) {
  return bfloat16 ? launch_typed<BFloat16>(attention, stream)
                  : launch_typed<Float16>(attention, stream);
}

}  // namespace fastdiff::cuda
