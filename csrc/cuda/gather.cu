// Gathers the inputs of the denoiser. The next input of each row is read once, and written once for
// each of its branches, conditional and unconditional.
#include "grid.cuh"
#include "launch.h"

namespace fastdiff::cuda {
namespace {

/// Copies `from` to `to`, and to `also` unless it is null. T has the size of an element.
template <class T>
__device__ __forceinline__ void copy_row(const T* from, T* to, T* also, int64_t elements) {
  constexpr int kWide = 16 / int(sizeof(T));
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  const int64_t thread = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t wide = aligned(from, to, also) ? elements / kWide : 0;
  for (int64_t i = thread; i < wide; i += stride) {
    const uint4 words = load_16(from + i * kWide);
    store_16(to + i * kWide, words);
    if (also) store_16(also + i * kWide, words);
  }
  for (int64_t i = wide * kWide + thread; i < elements; i += stride) {
    const T element = from[i];
    to[i] = element;
    if (also) also[i] = element;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) gather(const GatherArguments a) {
  const BatchRow row = a.rows[blockIdx.y];
  if (row.slot < 0) return;
  T* const x = static_cast<T*>(a.x);
  copy_row(static_cast<const T*>(a.next_input) + row.slot * a.elements, x + row.cond * a.elements,
           row.uncond >= 0 ? x + row.uncond * a.elements : nullptr, a.elements);
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    const float t = a.table[row.table_row].t;
    a.t[row.cond] = t;
    if (row.uncond >= 0) a.t[row.uncond] = t;
  }
}

}  // namespace
}  // namespace fastdiff::cuda

using namespace fastdiff::cuda;

extern "C" int fastdiff_cuda_gather(const GatherArguments* a, void* stream) {
  if (a->row_count == 0) return 0;
  const auto kernel = a->element_bytes == 4 ? gather<uint32_t> : gather<uint16_t>;
  const dim3 grid(blocks_of(a->elements), unsigned(a->row_count));
  return launch(kernel, grid, kThreads, 0, stream, *a);
}
