// The fused solver step: guidance, prediction, clipping, update, noise, history and the cast of the
// next input, in one pass over memory.
//
// All threads of a block work on the same row, so they take the same branches on which terms the
// row has, and the branches do not diverge.
#include "fastdiff/noise.h"
#include "fastdiff/step.h"
#include "grid.cuh"
#include "launch.h"

namespace fastdiff::cuda {
namespace {

using L = Scalar;
using F = StrictFloat;

/// Which terms a table row has: those with a coefficient other than zero (docs/contracts.md).
struct Counted {
  bool history[kHistorySlots], output, noise, write;

  __device__ __forceinline__ explicit Counted(const TableRow& row) {
    FASTDIFF_UNROLL
    for (int j = 0; j < kHistorySlots; ++j) history[j] = column(row, j + 1);
    output = column(row, kM);
    noise = column(row, kZ);
    write = row.dst != 0;
  }
  static __device__ __forceinline__ bool column(const TableRow& row, int c) {
    return row.x[c] != 0.0f || row.h[c] != 0.0f;
  }
};

/// The addresses of one row of the batch.
template <class Output, class Next>
struct Rows {
  float *state, *history, *history_out, *denoised;
  const Output *cond, *uncond, *log_scale;  // uncond and log_scale are null if the row has none
  Next* next_input;
  int64_t history_stride;

  __device__ __forceinline__ Rows(const StepArguments& a, const BatchRow& row,
                                  const TableRow& table, const Counted& counted) {
    const int64_t at = row.slot * a.elements;
    history_stride = a.slots * a.elements;
    state = a.state + at;
    history = a.history ? a.history + at : nullptr;
    history_out = counted.write ? history + (table.dst - 1) * history_stride : nullptr;
    denoised = a.denoised ? a.denoised + at : nullptr;
    const Output* output = static_cast<const Output*>(a.output);
    cond = output + row.cond * a.output_elements;
    uncond = row.uncond >= 0 ? output + row.uncond * a.output_elements : nullptr;
    log_scale = counted.noise && table.w != 0.0f ? cond + a.elements : nullptr;
    next_input = a.next_input ? static_cast<Next*>(a.next_input) + at : nullptr;
  }
  /// Whether all arrays are aligned, so that they can be accessed 128 bits at a time.
  __device__ __forceinline__ bool wide() const {
    return aligned(state, history, denoised, cond, uncond, log_scale, next_input) &&
           history_stride % 4 == 0;
  }
};

/// Computes the noise of eight elements, from `first` on, which is a multiple of 8.
__device__ __forceinline__ void noise(const NoiseKey& key, int64_t first, F (&z)[kVector]) {
  const RoundKeys<L> round_keys(key.key0, key.key1);
  FASTDIFF_UNROLL
  for (int k = 0; k < kVector; k += 4) {
    F four[4];
    normals<L>(key, round_keys, uint64_t(first + k) / 4, four);
    FASTDIFF_UNROLL
    for (int i = 0; i < 4; ++i) z[k + i] = four[i];
  }
}

/// Whether any of the values inside the row is infinite or NaN.
__device__ __forceinline__ bool not_finite(const F (&values)[kVector], Span span) {
  bool found = false;
  FASTDIFF_UNROLL
  for (int k = 0; k < kVector; ++k) {
    found |= k < span.live && (bit_cast<uint32_t>(values[k]) & 0x7f800000u) == 0x7f800000u;
  }
  return found;
}

/// Adds coefficient * values to the sum for the state, and to that for the history if `write` is
/// set.
__device__ __forceinline__ void add_term(const TableRow& table, int column, bool write,
                                         const F (&values)[kVector], F (&next)[kVector],
                                         F (&kept)[kVector]) {
  const F to_state = table.x[column], to_history = table.h[column];
  FASTDIFF_UNROLL
  for (int k = 0; k < kVector; ++k) next[k] = next[k] + to_state * values[k];
  if (write) {
    FASTDIFF_UNROLL
    for (int k = 0; k < kVector; ++k) kept[k] = kept[k] + to_history * values[k];
  }
}

/// Takes the step for eight elements of a row. Returns whether an m, v or x' among them is infinite
/// or NaN.
template <class Output, class Next>
__device__ __forceinline__ bool step_span(const Rows<Output, Next>& rows, const BatchRow& row,
                                          const TableRow& table, const Counted& counted,
                                          Span span) {
  F x[kVector], m[kVector], D[kVector], next[kVector], kept[kVector], term[kVector];
  load(rows.state, span, x);
  load(rows.cond, span, m);
  if (rows.uncond) {
    load(rows.uncond, span, term);
    FASTDIFF_UNROLL
    for (int k = 0; k < kVector; ++k) m[k] = guided<L>(term[k], m[k], row.guidance);
  }
  bool bad = not_finite(m, span);

  FASTDIFF_UNROLL
  for (int k = 0; k < kVector; ++k) {
    D[k] = denoised<L>(x[k], m[k], table);
    next[k] = F(table.x[kX]) * x[k];
    kept[k] = F(table.h[kX]) * x[k];
  }
  add_term(table, kD, counted.write, D, next, kept);
  if (rows.denoised) store(rows.denoised, span, D);
  if (counted.output) add_term(table, kM, counted.write, m, next, kept);
  FASTDIFF_UNROLL
  for (int j = 0; j < kHistorySlots; ++j) {
    if (!counted.history[j]) continue;
    load(rows.history + j * rows.history_stride, span, term);
    add_term(table, j + 1, counted.write, term, next, kept);
  }
  if (counted.noise) {
    noise(noise_key(row.seed, row.image, row.draw, kTagStep), span.first, term);
    if (rows.log_scale) {
      F v[kVector];
      load(rows.log_scale, span, v);
      bad |= not_finite(v, span);
      FASTDIFF_UNROLL
      for (int k = 0; k < kVector; ++k) term[k] = exponential<L>(v[k] * table.w) * term[k];
    }
    add_term(table, kZ, counted.write, term, next, kept);
  }

  store(rows.state, span, next);
  bad |= not_finite(next, span);
  if (counted.write) store(rows.history_out, span, kept);
  if (rows.next_input) {
    FASTDIFF_UNROLL
    for (int k = 0; k < kVector; ++k) next[k] = next[k] * table.c_in_next;
    store(rows.next_input, span, next);
  }
  return bad;
}

/// Sets the flag of a row if any of its blocks has found a value that is not finite. Each block
/// adds 1 to the row's ticket, and 2^16 if it has found one. The last block to do so writes the
/// flag and sets the ticket back to zero.
__device__ __forceinline__ void report(const StepArguments& a, bool bad) {
  const uint32_t found = __syncthreads_or(bad) ? 1u << 16 : 0u;
  if (threadIdx.x != 0) return;
  const uint32_t before = atomicAdd(&a.tickets[blockIdx.y], found + 1);
  if ((before & 0xffffu) + 1 < gridDim.x) return;
  a.flags[blockIdx.y] = (before + found) >> 16 != 0;
  a.tickets[blockIdx.y] = 0;
}

template <class Output, class Next>
__global__ void __launch_bounds__(kThreads, 5) step(const StepArguments a) {
  const BatchRow row = a.rows[blockIdx.y];
  if (row.slot < 0) return;
  const TableRow table = a.table[row.table_row];
  const Counted counted(table);
  const Rows<Output, Next> rows(a, row, table, counted);
  bool bad = false;
  each_span(a.elements, rows.wide(),
            [&](Span span) { bad |= step_span(rows, row, table, counted, span); });
  report(a, bad);
}

template <class Output>
int launch_step(const StepArguments& a, void* stream) {
  const auto kernel = a.next_type == ElementType::kFloat32    ? step<Output, float>
                      : a.next_type == ElementType::kBFloat16 ? step<Output, BFloat16>
                                                              : step<Output, Float16>;
  return launch(kernel, dim3(blocks_of(a.elements), unsigned(a.row_count)), kThreads, 0, stream, a);
}

}  // namespace
}  // namespace fastdiff::cuda

using namespace fastdiff::cuda;

extern "C" int fastdiff_cuda_step(const StepArguments* a, void* stream) {
  if (a->row_count == 0) return 0;
  switch (a->output_type) {
    case ElementType::kFloat32:
      return launch_step<float>(*a, stream);
    case ElementType::kBFloat16:
      return launch_step<BFloat16>(*a, stream);
    default:
      return launch_step<Float16>(*a, stream);
  }
}
