#include "dispatch.h"

#include <algorithm>

#include "thread_pool.h"

namespace fastdiff::cpu {
namespace {

// The elements of a unit. A chunk is large enough that handing it out costs little beside computing
// it, and small enough to stay in the cache and to divide a single image among threads.
constexpr int64_t kChunk = 8192;
static_assert(kChunk % kChunkAlignment == 0, "chunks hold whole blocks");

// Up to this many elements the caller works alone. They take a tenth of a millisecond with noise,
// and a sleeping thread takes as long to wake.
constexpr int64_t kInline = 1 << 16;

/// The instruction level in use: at first, the last in the list that this CPU supports.
const Level*& active_slot() {
  static const Level* active = [] {
    const Level* best = &kPortable;
    for (const Level* level : levels()) {
      if (level->supported()) best = level;
    }
    return best;
  }();
  return active;
}

const char* at_byte(const void* base, int64_t offset) {
  return static_cast<const char*>(base) + offset;
}

/// Resolves the addresses of one row, and picks the kernel for the terms that its table row uses.
StepPlan::Row resolve(const StepBatch& batch, const BatchRow& record, const Level& level) {
  const TableRow& table = batch.table[record.table_row];
  const CountedTerms terms(table);
  const int64_t at = record.slot * batch.elements;
  const int64_t output_bytes = batch.output_elements * size_of(batch.output_type);
  const auto history = [&](int slot) {
    return batch.history + (slot - 1) * batch.slots * batch.elements + at;
  };

  StepRow row = {};
  row.table = table;
  row.noise = noise_key(record.seed, record.image, record.draw, kTagStep);
  row.guidance = record.guidance;
  for (int j = 0; j < terms.history; ++j) {
    row.history_slots[j] = terms.slots[j];
    row.history[j] = history(terms.slots[j]);
  }
  if (terms.write) row.history_out = history(table.dst);
  row.state = batch.state + at;
  row.cond = at_byte(batch.output, record.cond * output_bytes);
  if (record.uncond >= 0) row.uncond = at_byte(batch.output, record.uncond * output_bytes);
  if (terms.noise && table.w != 0.0f) {
    row.log_scale = at_byte(row.cond, batch.elements * size_of(batch.output_type));
  }
  row.output_type = batch.output_type;
  if (batch.next_input) {
    row.next_input = static_cast<char*>(batch.next_input) + at * size_of(batch.next_type);
  }
  row.next_type = batch.next_type;
  if (batch.denoised) row.denoised = batch.denoised + at;
  return {row, level.step(terms.history, terms.output, terms.noise, terms.write)};
}

}  // namespace

const std::vector<const Level*>& levels() {
  static const std::vector<const Level*> all = {
      &kPortable,
#if defined(__x86_64__)
      &kAvx2,
      &kAvx512,
#endif
  };
  return all;
}

const Level& active_level() { return *__atomic_load_n(&active_slot(), __ATOMIC_RELAXED); }

void set_active_level(const Level& level) {
  __atomic_store_n(&active_slot(), &level, __ATOMIC_RELAXED);
}

CountedTerms::CountedTerms(const TableRow& row)
    : output(row.x[kM] != 0.0f || row.h[kM] != 0.0f),
      noise(row.x[kZ] != 0.0f || row.h[kZ] != 0.0f),
      write(row.dst != 0) {
  for (int j = 1; j <= kHistorySlots; ++j) {
    if (row.x[j] != 0.0f || row.h[j] != 0.0f) slots[history++] = j;
  }
}

StepPlan plan(const StepBatch& batch) {
  StepPlan plan{{}, batch.elements};
  plan.rows.reserve(size_t(batch.row_count));
  for (int64_t r = 0; r < batch.row_count; ++r) {
    plan.rows.push_back(resolve(batch, batch.rows[r], active_level()));
  }
  return plan;
}

void run(const StepPlan& plan, Threads whose, int threads, uint8_t* not_finite) {
  const int64_t rows = int64_t(plan.rows.size());
  const int64_t chunks = (plan.elements + kChunk - 1) / kChunk;
  std::fill_n(not_finite, rows, uint8_t(0));
  if (rows * plan.elements <= kInline) threads = 1;
  parallel_for(whose, threads, rows * chunks, [&](int64_t unit) {
    const int64_t r = unit / chunks, first = unit % chunks * kChunk;
    const StepPlan::Row& row = plan.rows[size_t(r)];
    if (!row.chunk(row.row, first, std::min(kChunk, plan.elements - first))) {
      __atomic_store_n(&not_finite[r], uint8_t(1), __ATOMIC_RELAXED);
    }
  });
}

void fill_normal(const NormalFill& fill, Threads whose, int threads) {
  const Level& level = active_level();
  const int64_t chunks = (fill.elements + kChunk - 1) / kChunk;
  if (fill.rows * fill.elements <= kInline) threads = 1;
  parallel_for(whose, threads, fill.rows * chunks, [&](int64_t unit) {
    const int64_t r = unit / chunks, first = unit % chunks * kChunk;
    const NoiseKey key = noise_key(fill.seeds[r], fill.images[r], fill.draw, fill.tag);
    level.fill(key, fill.out + r * fill.elements + first, fill.first + uint64_t(first),
               std::min(kChunk, fill.elements - first), fill.scale);
  });
}

}  // namespace fastdiff::cpu
