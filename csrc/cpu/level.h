// An instruction level: the CPU kernels that were compiled for a set of CPU instructions, as plain
// function pointers.
#pragma once

#include <cstdint>

#include "fastdiff/noise.h"
#include "fastdiff/step.h"

namespace fastdiff::cpu {

enum class ElementType { kFloat32, kBFloat16, kFloat16 };

constexpr int64_t size_of(ElementType type) { return type == ElementType::kFloat32 ? 4 : 2; }

/// One row of a batch whose addresses are resolved. Pointers that the row does not use are null.
struct StepRow {
  TableRow table;
  NoiseKey noise;
  float guidance;
  int history_slots[kHistorySlots];     // the slots that are read, ascending
  const float* history[kHistorySlots];  // their memory, in the same order
  float* history_out;                   // the slot that is written; may be one of those read
  float* state;                         // x, which x' replaces
  const void* cond;
  const void* uncond;       // null without guidance
  const void* log_scale;    // v of a learned noise scale, null for none
  ElementType output_type;  // of cond, uncond and log_scale
  void* next_input;
  ElementType next_type;
  float* denoised;
};

/// A kernel that takes the step for elements [first, first + count) of a row, where `first` is a
/// multiple of kChunkAlignment. It returns whether every m, v and x' among them is finite.
using StepChunk = bool (*)(const StepRow& row, int64_t first, int64_t count);

constexpr int64_t kChunkAlignment = 64;  // elements, which are whole blocks at every level

/// The instruction level of a CPU. The noise levels of sampling have nothing to do with it.
struct Level {
  const char* name;
  const char* needs;    // the instruction sets that the CPU must have, in words
  bool (*supported)();  // whether this CPU has them
  StepChunk (*step)(int history, bool output, bool noise, bool write);
  void (*fill)(const NoiseKey& key, float* out, uint64_t first, int64_t count, float scale);
  void (*box_muller)(const uint32_t* radius, const uint32_t* angle, float* z0, float* z1,
                     int64_t count);
  void (*exponential)(const float* x, float* out, int64_t count);
};

extern const Level kPortable;
#if defined(__x86_64__)
extern const Level kAvx2;
extern const Level kAvx512;
#endif

}  // namespace fastdiff::cpu
