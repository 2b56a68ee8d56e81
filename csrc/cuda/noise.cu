// Standard normal noise as a function of a counter (docs/noise.md).
#include "fastdiff/noise.h"
#include "grid.cuh"
#include "launch.h"

namespace fastdiff::cuda {
namespace {

/// Each thread computes the normals of whole quads of elements, 4 q to 4 q + 3, since one call of
/// Philox gives four. The first and the last quad of a row may be partly outside of it.
__global__ void __launch_bounds__(kThreads) fill_normal(const FillArguments a) {
  const NoiseKey key = noise_key(a.seeds[blockIdx.y], a.images[blockIdx.y], a.draw, a.tag);
  const RoundKeys<Scalar> round_keys(key.key0, key.key1);
  float* const out = a.out + blockIdx.y * a.elements;
  const int64_t skipped = int64_t(a.first % 4);
  const bool is_aligned = skipped == 0 && aligned(out);
  const int64_t quads = (skipped + a.elements + 3) / 4, stride = int64_t(gridDim.x) * kThreads;
  for (int64_t q = int64_t(blockIdx.x) * kThreads + threadIdx.x; q < quads; q += stride) {
    StrictFloat z[4];
    normals<Scalar>(key, round_keys, a.first / 4 + uint64_t(q), z);
    FASTDIFF_UNROLL
    for (int k = 0; k < 4; ++k) z[k] = z[k] * a.scale;
    const int64_t at = 4 * q - skipped;
    if (is_aligned && at + 4 <= a.elements) {
      store_four(out + at, z);
    } else {
      FASTDIFF_UNROLL
      for (int k = 0; k < 4; ++k) {
        if (at + k >= 0 && at + k < a.elements) out[at + k] = z[k].value;
      }
    }
  }
}

}  // namespace
}  // namespace fastdiff::cuda

using namespace fastdiff::cuda;

extern "C" int fastdiff_cuda_fill_normal(const FillArguments* a, void* stream) {
  if (a->row_count == 0 || a->elements == 0) return 0;
  const dim3 grid(blocks_of(a->elements), unsigned(a->row_count));
  return launch(fill_normal, grid, kThreads, 0, stream, *a);
}
