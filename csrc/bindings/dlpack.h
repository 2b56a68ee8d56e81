// The parts of the DLPack C interface that a consumer of CPU tensors needs, from its public
// specification (https://dmlc.github.io/dlpack/latest/c_api.html); the layout is a stable ABI.
#pragma once

#include <cstdint>

namespace fastdiff::dlpack {

constexpr int32_t kCpu = 1;    // DLDeviceType
constexpr uint8_t kFloat = 2;  // DLDataTypeCode
constexpr uint8_t kBfloat = 4;

struct Tensor {
  void* data;
  struct {
    int32_t type, id;
  } device;
  int32_t ndim;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null when contiguous
  uint64_t byte_offset;
};

struct ManagedTensor {
  Tensor tensor;
  void* manager_context;
  void (*deleter)(ManagedTensor* self);
};

}  // namespace fastdiff::dlpack
