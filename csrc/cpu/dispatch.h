// The choice of the instruction level at run time, and the kernels on a whole batch.
#pragma once

#include <cstddef>
#include <vector>

#include "level.h"
#include "thread_pool.h"

namespace fastdiff::cpu {

/// The instruction levels that were compiled into this build, slowest first.
const std::vector<const Level*>& levels();

/// The instruction level that the kernels use: at first, the last one that this CPU supports.
const Level& active_level();
void set_active_level(const Level& level);

/// Which terms a row of the table uses (docs/contracts.md): those that have a coefficient other
/// than zero. `slots` lists the `history` slots that are read.
struct CountedTerms {
  explicit CountedTerms(const TableRow& row);
  int history = 0;
  int slots[kHistorySlots] = {};
  bool output, noise, write;
};

/// The arguments of a step of a batch. The records must have been checked: indices are in range,
/// and no two rows have the same slot.
struct StepBatch {
  const TableRow* table;
  const BatchRow* rows;
  int64_t row_count;
  float* state;    // (slots, elements)
  float* history;  // (history slots, slots, elements), or null; at most kHistorySlots of them
  int64_t slots, elements;
  const void* output;  // (outputs, output_elements)
  int64_t output_elements;
  ElementType output_type;
  void* next_input;  // (slots, elements) or null
  ElementType next_type;
  float* denoised;  // (slots, elements) or null
};

/// A batch whose addresses are resolved. It holds copies of the records.
struct StepPlan {
  struct Row {
    StepRow row;
    StepChunk chunk;
  };
  std::vector<Row> rows;
  int64_t elements;
};
StepPlan plan(const StepBatch& batch);

/// Sets not_finite[row] to 1 where an m, v or x' is not finite, else to 0.
void run(const StepPlan& plan, Threads whose, int threads, uint8_t* not_finite);

/// The arguments of `fill_normal`, which computes for `out` of shape (rows, elements)
///
///   out[row, i] = scale * normal(seeds[row], images[row], draw, tag, first + i)
struct NormalFill {
  float* out;
  int64_t rows, elements;
  const uint64_t* seeds;
  const uint64_t* images;
  uint32_t draw, tag;
  uint64_t first;
  float scale;
};
void fill_normal(const NormalFill& fill, Threads whose, int threads);

/// A hash of some normals and of a step, computed at the given instruction level. The arithmetic is
/// defined to the bit, so any other value means that the compiler changed it, most likely by
/// contracting a * b + c into a fused multiply-add.
uint64_t fingerprint(const Level& level);

}  // namespace fastdiff::cpu
