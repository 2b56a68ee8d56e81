// CUDA on a CPU. csrc/cuda/intrinsics.cuh includes this file if the compiler is not nvcc. README.md
// says what is modelled and what is not.
#pragma once

#include <cmath>
#include <exception>

#include "collectives.h"
#include "elements.cuh"
#include "tensor_core.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

#define threadIdx (::emulator::Block::thread().index)
#define blockIdx (::emulator::Block::current().index)
#define blockDim (::emulator::Block::current().size)
#define gridDim (::emulator::Block::current().grid)

struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

/// Plain operations are atomic here, since blocks run one after the other and fibers are not
/// preempted.
template <class T>
T atomicAdd(T* address, T value) {
  const T before = *address;
  *address = before + value;
  return before;
}

namespace emulator {

inline std::string& last_error() {
  static thread_local std::string message;
  return message;
}

template <class T>
struct SameType {
  using type = T;
};
/// The type T. `Same<float[4]>& name` declares a reference to an array, which `float[4]& name`
/// cannot.
template <class T>
using Same = typename SameType<T>::type;

/// Returns a shared variable of the kernel. Each variable has a `key` of its own.
template <class T>
T& shared_variable(const void* key) {
  return *reinterpret_cast<T*>(Block::current().shared.variable(key, sizeof(T), alignof(T)));
}

}  // namespace emulator

/// Declares a variable in shared memory, such as FASTDIFF_SHARED(float[4], sums). It is filled with
/// NaN and never initialised.
#define FASTDIFF_SHARED(type, name)             \
  static const char fastdiff_shared_##name = 0; \
  ::emulator::Same<type>& name = ::emulator::shared_variable<type>(&fastdiff_shared_##name)

/// Declares a pointer to the dynamic shared memory of the launch, which is aligned to 128 bytes.
#define FASTDIFF_DYNAMIC_SHARED(type, name) \
  type* const name = reinterpret_cast<type*>(::emulator::Block::current().shared.dynamic())

namespace fastdiff::cuda {

/// Reports an `address` that is not a multiple of 16, for which a GPU would raise a fault.
inline void check_aligned(const void* address, const char* operation) {
  if (reinterpret_cast<uintptr_t>(address) % 16) {
    emulator::Block::current().fail(std::string(operation) + " of 16 bytes that are not aligned");
  }
}

inline uint4 load_16(const void* from) {
  check_aligned(from, "load");
  uint4 words;
  memcpy(&words, from, sizeof words);
  return words;
}
inline void store_16(void* to, uint4 words) {
  check_aligned(to, "store");
  memcpy(to, &words, sizeof words);
}

inline void cp_async_16(void* shared, const void* global, bool valid = true) {
  emulator::Block& block = emulator::Block::current();
  check_aligned(shared, "cp.async");
  if (valid) check_aligned(global, "cp.async");
  if (!block.shared.owns(shared)) block.fail("cp.async to memory that is not shared");
  emulator::Block::thread().copies.issue(shared, global, valid ? 16 : 0, block.random());
}
inline void cp_async_commit() { emulator::Block::thread().copies.commit(); }
template <int kPending>
inline void cp_async_wait() {
  emulator::Block::thread().copies.wait(kPending);
}

inline float exp2_approx(float x) { return std::exp2(x); }
inline float reciprocal_approx(float x) { return 1.0f / x; }

constexpr const char* kDevice = "cpu";

inline const char* error_text(int) { return emulator::last_error().c_str(); }
inline int status() { return 0; }

/// Runs the kernel on the whole grid. Returns 0, or 1 if it failed: emulator_error() then says why.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, void*,
           Arguments... arguments) {
  try {
    emulator::Block(grid, block, shared_bytes, [&] { kernel(arguments...); }).run_grid();
    return 0;
  } catch (const std::exception& error) {
    emulator::last_error() = error.what();
    return 1;
  }
}

}  // namespace fastdiff::cuda

// These are called from Python. The attribute `used` puts them into every library.
extern "C" {
__attribute__((used, visibility("default"))) inline const char* emulator_error() {
  return emulator::last_error().c_str();
}
__attribute__((used, visibility("default"))) inline void emulator_schedule(int order, int copies,
                                                                           uint64_t seed) {
  emulator::schedule() = {emulator::Order(order), emulator::Copies(copies), seed};
}
/// Writes the five counters and sets them to zero.
__attribute__((used, visibility("default"))) inline void emulator_counters(uint64_t* out) {
  memcpy(out, &emulator::counters(), sizeof(emulator::Counters));
  emulator::counters() = {};
}
}
