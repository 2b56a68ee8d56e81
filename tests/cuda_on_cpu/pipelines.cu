// Kernels whose threads wait for each other. Without any one of their barriers, the result is
// wrong.
#include "intrinsics.cuh"

namespace fastdiff::cuda {

/// Sums the 128 values of a block in each round, and adds up the rounds. It uses shuffles, and
/// shared memory that is written again after a barrier.
__global__ void block_sums(const float* values, float* out, int rounds) {
  FASTDIFF_SHARED(float[4], warp_sums);
  const int thread = int(threadIdx.x);
  float total = 0;
  for (int round = 0; round < rounds; ++round) {
    float sum = values[(blockIdx.x * rounds + round) * 128 + thread];
    for (int bits = 16; bits > 0; bits /= 2) sum += __shfl_xor_sync(~0u, sum, bits);
    if (thread % 32 == 0) warp_sums[thread / 32] = sum;
    __syncthreads();  // before the sums are read
    for (int warp = 0; warp < 4; ++warp) total += warp_sums[warp];
    __syncthreads();  // before they are overwritten
  }
  if (thread == 0) out[blockIdx.x] = total;
}

/// Reverses each tile of 128 floats. The next tile is loaded while one is in use.
__global__ void reverse_tiles(const float* values, float* out, int tiles) {
  FASTDIFF_DYNAMIC_SHARED(float, buffers);  // two of 128
  const int thread = int(threadIdx.x);
  const auto load = [&](int tile) {
    if (thread < 32) {
      cp_async_16(buffers + tile % 2 * 128 + thread * 4, values + tile * 128 + thread * 4);
    }
    cp_async_commit();
  };
  load(0);
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) {
      load(tile + 1);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();  // before the tile is read
    out[tile * 128 + thread] = buffers[tile % 2 * 128 + 127 - thread];
    __syncthreads();  // before its buffer is loaded again
  }
}

}  // namespace fastdiff::cuda

using namespace fastdiff::cuda;

extern "C" {
int launch_block_sums(const float* values, float* out, int blocks, int rounds) {
  return launch(block_sums, blocks, 128, 0, nullptr, values, out, rounds);
}
int launch_reverse_tiles(const float* values, float* out, int tiles) {
  return launch(reverse_tiles, 1, 128, 2 * 128 * sizeof(float), nullptr, values, out, tiles);
}
}
