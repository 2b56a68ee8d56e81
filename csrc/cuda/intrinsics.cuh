// What kernels ask of a GPU beyond plain C++, in one place: PTX for nvcc, and for any other
// compiler the functions of the same names in tests/cuda_on_cpu, which run the same source on a CPU.
#pragma once

#include "elements.cuh"

#if !defined(__CUDACC__)
#include "emulator.h"  // tests/cuda_on_cpu: the only user of these sources beside nvcc
#else

#include <cuda_runtime.h>

/// A variable in shared memory: FASTDIFF_SHARED(float[4], sums).
#define FASTDIFF_SHARED(type, name) __shared__::fastdiff::cuda::Same<type> name

/// The dynamic shared memory of the launch, aligned to 128 bytes.
#define FASTDIFF_DYNAMIC_SHARED(type, name)                          \
  extern __shared__ __align__(128) unsigned char fastdiff_dynamic[]; \
  type* const name = reinterpret_cast<type*>(fastdiff_dynamic)

namespace fastdiff::cuda {

template <class T>
struct SameType {
  using type = T;
};
/// T, in a form that can declare an array.
template <class T>
using Same = typename SameType<T>::type;

/// 16 aligned bytes of global memory.
__device__ __forceinline__ uint4 load_16(const void* from) {
  return *static_cast<const uint4*>(from);
}
/// The compiler may split a plain store of 16 bytes; it cannot split this one.
__device__ __forceinline__ void store_16(void* to, uint4 words) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w)
               : "memory");
}

/// D = A B + D on tensor cores: A 16 x 16 row-major, B 16 x 8 column-major, D 16 x 8 float32.
/// T is Float16 or BFloat16. Which lane holds what: tests/cuda_on_cpu/tensor_core.h.
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

/// Loads kMatrices (1, 2 or 4) 8 x 8 matrices of 16-bit elements from shared memory; lanes
/// 8 i .. 8 i + 7 pass the addresses of the rows of matrix i, 16 aligned bytes each.
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

/// Starts a copy of 16 aligned bytes from global to shared memory, or of zeros if not `valid`; then
/// `global` is not read.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid = true) {
  const uint32_t address = uint32_t(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
/// Makes a group of the copies that this thread has started since the last one.
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits for all but the newest kPending groups of this thread; other threads see the bytes only
/// after a barrier.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// 2^x to 2 ulp, subnormals flushed; 2^-inf is 0.
__device__ __forceinline__ float exp2_approx(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
/// 1 / x to 1 ulp, subnormals flushed.
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
  cudaGetLastError();  // so that the next launch does not report this one
  return error != cudaSuccess ? error : devices == 0 ? cudaErrorNoDevice : cudaSuccess;
}

/// Queues the kernel on `stream`, a cudaStream_t; 0 or a cudaError_t. More than 48 KiB of dynamic
/// shared memory is asked for here.
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
