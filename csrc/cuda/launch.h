// The launchers of the kernels. They take raw device pointers and return 0 or a cudaError_t.
//
// A launcher queues one kernel on `stream`, which is a cudaStream_t. It allocates no memory and
// waits for nothing.
#pragma once

#include <cstdint>

#include "fastdiff/step.h"

namespace fastdiff::cuda {

/// The element types, with the numbers that fastdiff/kernels/cuda_module.py gives them.
enum class ElementType : int32_t { kFloat32, kBFloat16, kFloat16 };

/// The arguments of a solver step of a batch (docs/contracts.md). A row whose slot is -1 is
/// padding, for which nothing is read or written.
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
  uint32_t* tickets;  // (row_count): zero before and after; concurrent launches need their own
  ElementType output_type, next_type;
};

/// The arguments of `gather`, which sets for each row x[cond] = x[uncond] = next_input[slot] and
/// t[cond] = t[uncond] = table[table_row].t.
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

/// The arguments of `fill_normal`, which computes
///
///   out[row, i] = scale * normal(seeds[row], images[row], draw, tag, first + i)
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

/// Returns a sentence for an error of a launcher.
const char* fastdiff_cuda_error_text(int error);
/// Returns 0 if there is a device to launch on, else an error such as cudaErrorInsufficientDriver.
int fastdiff_cuda_status();
/// Returns the type of the torch devices whose memory the kernels take: "cuda".
const char* fastdiff_cuda_device();
}
