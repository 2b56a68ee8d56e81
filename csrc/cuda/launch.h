// Every kernel's launcher: raw device pointers, 0 or an error of the runtime (cudaError_t).
//
// A launcher allocates nothing, waits for nothing and queues one kernel on `stream` (cudaStream_t).
#pragma once

#include <cstdint>

#include "fastdiff/step.h"

namespace fastdiff::cuda {

/// Element types, numbered as in fastdiff/kernels/cuda_module.py.
enum class ElementType : int32_t { kFloat32, kBFloat16, kFloat16 };

/// A solver step of a batch: docs/contracts.md. A row with slot -1 is padding: nothing of it is
/// touched.
struct StepArguments {
  const TableRow* table;
  const BatchRow* rows;
  int64_t row_count;
  float* state;    // (slots, elements)
  float* history;  // (history slots, slots, elements) or null
  int64_t slots, elements;
  const void* output;  // (outputs, output_elements)
  int64_t output_elements;
  void* next_input;   // (slots, elements) or null
  float* denoised;    // (slots, elements) or null
  uint8_t* flags;     // (row_count): 1 where an m, v or x' is not finite, else 0
  uint32_t* tickets;  // (row_count): zeros before and after; not shared by concurrent launches
  ElementType output_type, next_type;
};

/// x[cond] = x[uncond] = next_input[slot] and t[cond] = t[uncond] = table[table_row].t of each row.
struct GatherArguments {
  const TableRow* table;
  const BatchRow* rows;
  int64_t row_count;
  const void* next_input;  // (slots, elements)
  void* x;                 // (outputs, elements), of the same type
  float* t;                // (outputs)
  int64_t elements;
  int32_t element_bytes;  // 2 or 4
};

/// out[row, i] = scale * normal(seeds[row], images[row], draw, tag, first + i).
struct FillArguments {
  float* out;  // (row_count, elements)
  const uint64_t* seeds;
  const uint64_t* images;
  int64_t row_count, elements;
  uint64_t first;
  uint32_t draw, tag;
  float scale;
};

}  // namespace fastdiff::cuda

extern "C" {
int fastdiff_cuda_step(const fastdiff::cuda::StepArguments* arguments, void* stream);
int fastdiff_cuda_gather(const fastdiff::cuda::GatherArguments* arguments, void* stream);
int fastdiff_cuda_fill_normal(const fastdiff::cuda::FillArguments* arguments, void* stream);

/// What an error of a launcher means.
const char* fastdiff_cuda_error_text(int error);
/// 0 if there is a device to launch on, else an error such as cudaErrorInsufficientDriver.
int fastdiff_cuda_status();
/// The kind of torch device whose memory the kernels take: "cuda".
const char* fastdiff_cuda_device();
}
