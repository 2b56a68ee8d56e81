// All that the kernels need of a GPU beyond plain C++. For nvcc it is PTX. For any other compiler
// it is functions of the same names in tests/cuda_on_cpu, with which the same sources run on a CPU.
#pragma once

#include "elements.cuh"

#if !defined(__CUDACC__)
#include "emulator.h"  // in tests/cuda_on_cpu, which alone compiles these sources without nvcc
#else

#include <cuda_runtime.h>

/// Declares a variable in shared memory, such as FASTDIFF_SHARED(float[4], sums).
#define FASTDIFF_SHARED(type, name) __shared__::fastdiff::cuda::Same<type> name

/// Declares a pointer to the dynamic shared memory of the launch, which is aligned to 128 bytes.
#define FASTDIFF_DYNAMIC_SHARED(type, name)                          \
  extern __shared__ __align__(128) unsigned char fastdiff_dynamic[]; \
  type* const name = reinterpret_cast<type*>(fastdiff_dynamic)

namespace fastdiff::cuda {

template <class T>
struct SameType {
  using type = T;
};
/// The type T. `Same<float[4]> name` declares an array, which `float[4] name` cannot.
template <class T>
using Same = typename SameType<T>::type;

/// Loads 16 aligned bytes of global memory.
__device__ __forceinline__ uint4 load_16(const void* from) {
  return *static_cast<const uint4*>(from);
}
/// Stores 16 aligned bytes in one instruction. The compiler could split a plain store.
__device__ __forceinline__ void store_16(void* to, uint4 words) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w)
               : "memory");
}

/// Computes D = A B + D on tensor cores: A is 16 x 16 and row-major, B is 16 x 8 and column-major,
/// D is 16 x 8 in float32. T is Float16 or BFloat16. tests/cuda_on_cpu/tensor_core.h says which
/// lane holds which elements.
template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]);
template <>
__device__ __forceinline__ void mma_m16n8k16<Float16>(float (&d)[4], const uint32_t (&a)[4],
                                                      const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void mma_m16n8k16<BFloat16>(float (&d)[4], const uint32_t (&a)[4],
                                                       const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Loads kMatrices (1, 2 or 4) matrices of 8 x 8 16-bit elements from shared memory. Lanes 8 i to
/// 8 i + 7 pass the addresses of the rows of matrix i, each 16 aligned bytes.
template <int kMatrices, bool kTransposed>
__device__ __forceinline__ void ldmatrix(uint32_t (&r)[kMatrices], const void* row) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4);
  const uint32_t address = uint32_t(__cvta_generic_to_shared(row));
  if constexpr (kMatrices == 1 && !kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kMatrices == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kMatrices == 2 && !kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kMatrices == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
  } else if constexpr (!kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
}

/// Starts a copy of 16 aligned bytes from global to shared memory. If `valid` is false, it writes
/// zeros and does not read `global`.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid = true) {
  const uint32_t address = uint32_t(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
/// Makes a group of the copies that this thread has started since its last group.
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits for all groups of this thread but the newest kPending. Other threads see the bytes only
/// after a barrier.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// 2^x within 2 ulp. Subnormal inputs and results become 0, and 2^-inf is 0.
__device__ __forceinline__ float exp2_approx(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
/// 1 / x within 1 ulp. Subnormal inputs and results become 0.
__device__ __forceinline__ float reciprocal_approx(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

constexpr const char* kDevice = "cuda";

inline const char* error_text(int error) { return cudaGetErrorString(cudaError_t(error)); }
inline int status() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  cudaGetLastError();  // clears the error, so that the next launch does not report it
  return error != cudaSuccess ? error : devices == 0 ? cudaErrorNoDevice : cudaSuccess;
}

/// Queues the kernel on `stream`, which is a cudaStream_t, and returns 0 or a cudaError_t. CUDA
/// must be asked for more than 48 KiB of dynamic shared memory, which is done here.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, void* stream,
           Arguments... arguments) {
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace fastdiff::cuda

#endif
