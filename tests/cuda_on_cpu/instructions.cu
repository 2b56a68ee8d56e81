// Kernels for each instruction that the emulator knows, and for each mistake that it must report.
#include "intrinsics.cuh"

namespace fastdiff::cuda {

/// Computes d = a b + d in one warp, for a (16, 16), b (16, 8) and d (16, 8), all row-major.
template <class T>
__global__ void product(const T* a, const T* b, float* d) {
  FASTDIFF_SHARED(T[16][16], A);
  FASTDIFF_SHARED(T[16][8], B);
  const int lane = int(threadIdx.x), group = lane / 4, pair = lane % 4 * 2;
  for (int i = lane; i < 256; i += 32) A[i / 16][i % 16] = a[i];
  for (int i = lane; i < 128; i += 32) B[i / 8][i % 8] = b[i];
  __syncwarp();
  uint32_t fragment_a[4], fragment_b[2];
  ldmatrix<4, false>(fragment_a, &A[lane % 16][lane / 16 * 8]);
  ldmatrix<2, true>(fragment_b, &B[lane % 16][0]);
  float fragment_d[4];
  for (int i = 0; i < 4; ++i) fragment_d[i] = d[(group + i / 2 * 8) * 8 + pair + i % 2];
  mma_m16n8k16<T>(fragment_d, fragment_a, fragment_b);
  for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + pair + i % 2] = fragment_d[i];
}

/// Stores the registers that every lane has after loading `matrices`, each of 8 x 8 elements.
template <int kMatrices, bool kTransposed>
__global__ void load_matrices(const uint16_t* matrices, uint32_t* registers) {
  FASTDIFF_SHARED(uint16_t[kMatrices][8][8], rows);
  const int lane = int(threadIdx.x);
  for (int i = lane; i < kMatrices * 64; i += 32) (&rows[0][0][0])[i] = matrices[i];
  __syncwarp();
  uint32_t r[kMatrices];
  ldmatrix<kMatrices, kTransposed>(r, rows[lane / 8 % kMatrices][lane % 8]);
  for (int i = 0; i < kMatrices; ++i) registers[lane * kMatrices + i] = r[i];
}

/// Computes a product from given registers, so that its layout can be compared with the manual's.
template <class T>
__global__ void raw_product(const uint32_t* a, const uint32_t* b, float* d) {
  const int lane = int(threadIdx.x);
  uint32_t fragment_a[4], fragment_b[2];
  float fragment_d[4];
  for (int i = 0; i < 4; ++i) fragment_a[i] = a[lane * 4 + i], fragment_d[i] = d[lane * 4 + i];
  for (int i = 0; i < 2; ++i) fragment_b[i] = b[lane * 2 + i];
  mma_m16n8k16<T>(fragment_d, fragment_a, fragment_b);
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = fragment_d[i];
}

/// Stores what each of the four kinds of shuffle returns to every lane, in segments of 8 lanes.
__global__ void shuffles(int* out) {
  const int lane = int(threadIdx.x);
  out[lane * 5 + 0] = __shfl_sync(~0u, lane, 11, 8);
  out[lane * 5 + 1] = __shfl_xor_sync(~0u, lane, 9, 8);
  out[lane * 5 + 2] = __shfl_down_sync(~0u, lane, 3, 8);
  out[lane * 5 + 3] = __shfl_up_sync(~0u, lane, 3, 8);
  out[lane * 5 + 4] = __syncthreads_or(lane == 17);
}

__device__ __attribute__((noinline)) int fill_stack(int depth) {
  volatile int frame[64] = {depth};
  return depth ? fill_stack(depth - 1) + frame[0] : 0;
}

/// Makes the mistake of the number `which`, which must be reported.
__global__ void mistake(int which, int* out) {
  FASTDIFF_SHARED(int[20], values);
  FASTDIFF_DYNAMIC_SHARED(int, dynamic);
  const int lane = int(threadIdx.x);
  values[lane % 20] = lane;
  dynamic[lane] = 0;
  int at = which == 0 ? 20 : which == 1 ? -1 : which == 2 ? 32 : which == 3 ? -1500 : 0;
  asm volatile("" : "+r"(at));  // hides the value, so that no compiler checks the bounds
  if (which <= 1) values[at] = 1;
  if (which == 2 || which == 3) dynamic[at] = 1;
  if (which == 4) {
    if (lane < 16) {
      __syncthreads();
    } else {
      __syncwarp();
    }
  }
  if (which == 5) {
    if (lane < 16) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  }
  if (which == 6 && lane < 16) __syncwarp();
  if (which == 7) out[lane] = __shfl_sync(0xffffu, lane, lane + 16);
  if (which == 8) {
    if (lane < 16) {
      __syncwarp();
    } else {
      __shfl_sync(~0u, lane, 0);
    }
  }
  if (which == 9) cp_async_16(dynamic, out), cp_async_commit();
  if (which == 10) cp_async_16(dynamic + 1, out), cp_async_commit();
  if (which == 11) cp_async_16(out, out), cp_async_commit();
  if (which == 12) reinterpret_cast<int* volatile*>(&out)[0] = nullptr, out[lane] = 1;
  if (which == 13) {
    uint32_t r[1];
    ldmatrix<1, false>(r, dynamic + 1);
  }
  if (which == 14) out[lane] = fill_stack(1000);
}

}  // namespace fastdiff::cuda

using namespace fastdiff::cuda;

extern "C" {
int launch_product(const void* a, const void* b, float* d, int bfloat16) {
  if (bfloat16) {
    return launch(product<BFloat16>, 1, 32, 0, nullptr, static_cast<const BFloat16*>(a),
                  static_cast<const BFloat16*>(b), d);
  }
  return launch(product<Float16>, 1, 32, 0, nullptr, static_cast<const Float16*>(a),
                static_cast<const Float16*>(b), d);
}
int launch_raw_product(const uint32_t* a, const uint32_t* b, float* d, int bfloat16) {
  return launch(bfloat16 ? raw_product<BFloat16> : raw_product<Float16>, 1, 32, 0, nullptr, a, b,
                d);
}
int launch_load_matrices(const uint16_t* matrices, uint32_t* registers, int count, int transposed) {
  const auto kernel = count == 1   ? transposed ? load_matrices<1, true> : load_matrices<1, false>
                      : count == 2 ? transposed ? load_matrices<2, true> : load_matrices<2, false>
                      : transposed ? load_matrices<4, true>
                                   : load_matrices<4, false>;
  return launch(kernel, 1, 32, 0, nullptr, matrices, registers);
}
int launch_shuffles(int* out) { return launch(shuffles, 1, 32, 0, nullptr, out); }
int launch_too_much_threads() { return launch(shuffles, 1, 1025, 0, nullptr, nullptr); }
int launch_too_much_shared() { return launch(shuffles, 1, 32, 227 * 1024 + 1, nullptr, nullptr); }
int launch_mistake(int which, int* out) {
  return launch(mistake, 1, 32, 32 * sizeof(int), nullptr, which, out);
}
}
