// Checks the records of a batch, so that the kernels never use an index that is out of bounds.
#pragma once

#include <cstdint>

#include "fastdiff/step.h"

namespace fastdiff {

/// The sizes of the arrays, which the indices in BATCH_ROW and TABLE_ROW must stay below.
struct StepLimits {
  int64_t table_rows, slots, outputs, history_slots, elements, output_elements;
};

/// Raises InvalidArgument if a record points outside the arrays, if two rows have the same slot, or
/// if an image number is 2^48 or more. Raises InvalidShape if a row has a learned noise scale and
/// the output has no values for it.
void check_records(const TableRow* table, const BatchRow* rows, int64_t count,
                   const StepLimits& limits);

}  // namespace fastdiff
