// Bounds checks of the records of a batch: nothing is read or written through an unchecked index.
#pragma once

#include <cstdint>

#include "fastdiff/step.h"

namespace fastdiff {

/// Sizes that the indices of BATCH_ROW and TABLE_ROW must stay below.
struct StepLimits {
  int64_t table_rows, slots, outputs, history_slots, elements, output_elements;
};

/// Raises InvalidArgument for a record that points outside the arrays, for two rows with one slot
/// and for an image of 2^48 or more; InvalidShape where a learned noise scale finds no values.
void check_records(const TableRow* table, const BatchRow* rows, int64_t count,
                   const StepLimits& limits);

}  // namespace fastdiff
