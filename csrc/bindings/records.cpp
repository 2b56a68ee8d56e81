#include "records.h"

#include <string>
#include <vector>

#include "../cpu/dispatch.h"
#include "array.h"

namespace fastdiff {
namespace {

[[noreturn]] void fail(ErrorKind kind, int64_t row, const std::string& message) {
  throw Error{kind, "rows[" + std::to_string(row) + "]: " + message};
}

void check_range(int64_t row, const char* field, int64_t value, int64_t low, int64_t size) {
  if (value < low || value >= size) {
    fail(ErrorKind::kInvalidArgument, row,
         std::string(field) + " must be in [" + std::to_string(low) + ", " + std::to_string(size) +
             "), got " + std::to_string(value));
  }
}

void check_table_row(int64_t row, const TableRow& table, const StepLimits& limits) {
  check_range(row, "dst of its table row", table.dst, 0, kHistorySlots + 1);
  const cpu::CountedTerms terms(table);
  const int highest_read = terms.history ? terms.slots[terms.history - 1] : 0;
  const int needed = highest_read > table.dst ? highest_read : table.dst;
  if (needed > limits.history_slots) {
    fail(ErrorKind::kInvalidArgument, row,
         "its table row uses history slot " + std::to_string(needed) + ", but history holds " +
             std::to_string(limits.history_slots));
  }
  if (terms.noise && table.w != 0.0f && limits.output_elements < 2 * limits.elements) {
    fail(ErrorKind::kInvalidShape, row,
         "its table row learns the noise scale, which needs output rows of at least " +
             std::to_string(2 * limits.elements) + " elements, got " +
             std::to_string(limits.output_elements));
  }
}

}  // namespace

void check_records(const TableRow* table, const BatchRow* rows, int64_t count,
                   const StepLimits& limits) {
  std::vector<bool> taken(size_t(limits.slots), false);
  for (int64_t r = 0; r < count; ++r) {
    const BatchRow& row = rows[r];
    check_range(r, "table_row", row.table_row, 0, limits.table_rows);
    check_range(r, "slot", row.slot, 0, limits.slots);
    check_range(r, "cond", row.cond, 0, limits.outputs);
    check_range(r, "uncond", row.uncond, -1, limits.outputs);
    if (row.image >> 48) {
      fail(ErrorKind::kInvalidArgument, r,
           "image must be below 2^48, got " + std::to_string(row.image));
    }
    if (taken[size_t(row.slot)]) {
      fail(ErrorKind::kInvalidArgument, r,
           "slot " + std::to_string(row.slot) + " is already used by an earlier row of the batch");
    }
    taken[size_t(row.slot)] = true;
    check_table_row(r, table[row.table_row], limits);
  }
}

}  // namespace fastdiff
