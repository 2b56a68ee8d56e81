// Loads and stores of eight consecutive elements of a row: 128 bits at a time where the row is
// aligned, and element by element elsewhere.
#pragma once

#include "intrinsics.cuh"

namespace fastdiff::cuda {

/// The elements that a thread takes at a time: two float4, or one uint4 of 16-bit elements.
constexpr int kVector = 8;

/// Whether all pointers are multiples of 16 bytes, as is the null pointer of an absent array.
template <class... Pointers>
__device__ __forceinline__ bool aligned(const Pointers*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) | ...) & 15) == 0;
}

/// The elements of a row that a thread works on, and how it accesses them.
struct Span {
  int64_t first;
  int live;   // how many of the elements are inside the row: 1 to kVector
  bool wide;  // live is kVector and all rows are aligned
};

__device__ __forceinline__ void load(const float* row, Span span, StrictFloat (&to)[kVector]) {
  row += span.first;
  if (span.wide) {
    FASTDIFF_UNROLL
    for (int k = 0; k < kVector; k += 4) {
      const uint4 words = load_16(row + k);
      to[k] = bit_cast<float>(words.x), to[k + 1] = bit_cast<float>(words.y);
      to[k + 2] = bit_cast<float>(words.z), to[k + 3] = bit_cast<float>(words.w);
    }
  } else {
    FASTDIFF_UNROLL
    for (int k = 0; k < kVector; ++k) to[k] = k < span.live ? row[k] : 0.0f;
  }
}

template <class T>
__device__ __forceinline__ void load(const T* row, Span span, StrictFloat (&to)[kVector]) {
  row += span.first;
  if (span.wide) {
    const uint4 words = load_16(row);
    const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
    FASTDIFF_UNROLL
    for (int k = 0; k < kVector; ++k) to[k] = unpack<T>(pairs[k / 2], k % 2);
  } else {
    FASTDIFF_UNROLL
    for (int k = 0; k < kVector; ++k) to[k] = k < span.live ? to_float(row[k]) : 0.0f;
  }
}

/// Stores four floats in 16 aligned bytes.
__device__ __forceinline__ void store_four(float* to, const StrictFloat* from) {
  store_16(to, {bit_cast<uint32_t>(from[0]), bit_cast<uint32_t>(from[1]),
                bit_cast<uint32_t>(from[2]), bit_cast<uint32_t>(from[3])});
}

__device__ __forceinline__ void store(float* row, Span span, const StrictFloat (&from)[kVector]) {
  row += span.first;
  if (span.wide) {
    FASTDIFF_UNROLL
    for (int k = 0; k < kVector; k += 4) {
      store_four(row + k, from + k);
    }
  } else {
    FASTDIFF_UNROLL
    for (int k = 0; k < kVector; ++k) {
      if (k < span.live) row[k] = from[k].value;
    }
  }
}

template <class T>
__device__ __forceinline__ void store(T* row, Span span, const StrictFloat (&from)[kVector]) {
  row += span.first;
  uint32_t pairs[4];
  FASTDIFF_UNROLL
  for (int k = 0; k < 4; ++k) pairs[k] = pack<T>(from[2 * k].value, from[2 * k + 1].value);
  if (span.wide) {
    store_16(row, {pairs[0], pairs[1], pairs[2], pairs[3]});
  } else {
    FASTDIFF_UNROLL
    for (int k = 0; k < kVector; ++k) {
      if (k < span.live) row[k] = T{uint16_t(pairs[k / 2] >> 16 * (k % 2))};
    }
  }
}

}  // namespace fastdiff::cuda
