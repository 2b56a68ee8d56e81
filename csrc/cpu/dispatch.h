// Which level runs, and the kernels over a whole batch.
#pragma once

#include <cstddef>
#include <vector>

#include "level.h"
#include "thread_pool.h"

namespace fastdiff::cpu {

/// Every level of this build, slowest first.
const std::vector<const Level*>& levels();

/// The level that kernels use: at first, the last one that this CPU supports.
const Level& active_level();
void set_active_level(const Level& level);

/// Which columns a row of the table counts (docs/contracts.md).
struct CountedTerms {
  explicit CountedTerms(const TableRow& row);
  int history = 0;
  int slots[kHistorySlots] = {};
  bool output, noise, write;
};

/// A step of a batch. Records must have been checked: indices in range, slots distinct.
struct StepBatch {
  const TableRow* table;
  const BatchRow* rows;
  int64_t row_count;
  float* state;    // (slots, elements)
  float* history;  // (kHistorySlots, slots, elements) or fewer slots in front, or null
  int64_t slots, elements;
  const void* output;  // (outputs, output_elements)
  int64_t output_elements;
  ElementType output_type;
  void* next_input;  // (slots, elements) or null
  ElementType next_type;
  float* denoised;  // (slots, elements) or null
};

/// A batch with its addresses resolved; it keeps copies of the records, not the records.
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

/// out[row, i] = scale * normal(seeds[row], images[row], draw, tag, first + i), (rows, elements).
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

/// A hash of normals and of a step on the given level; fixed by the arithmetic, so another value
/// means that the compiler broke it, most likely by contracting a * b + c.
uint64_t fingerprint(const Level& level);

}  // namespace fastdiff::cpu
