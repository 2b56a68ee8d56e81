// The CPU kernels for noise and the solver step, as templates over a lane type.
//
// The source file of each instruction level includes this file and instantiates the kernels with a
// lane type of internal linkage. Without that, the linker could merge the instances of two levels
// and keep the one that was compiled for the newer CPU.
#pragma once

#include "fastdiff/half.h"
#include "level.h"

namespace fastdiff::cpu {

/// The kernels for the lane type L (arithmetic.h).
template <class L>
struct Kernels {
  using F = typename L::F;
  using U = typename L::U;

  static constexpr int kVectors = 4;
  static constexpr int kBlock = kVectors * L::kLanes;  // the elements of one turn of every loop
  static_assert(kChunkAlignment % kBlock == 0, "chunks hold whole blocks");

  /// Computes `count` normals, from element `first` on. A block of elements that begins before
  /// `first` or ends after the last one is computed as a whole, and part of it is copied.
  static void fill(const NoiseKey& key, float* out, uint64_t first, int64_t count, float scale) {
    const RoundKeys<L> round_keys(key.key0, key.key1);
    const int64_t skipped = int64_t(first % kBlock);
    uint64_t element = first - uint64_t(skipped);
    int64_t i = -skipped;  // position of the block in out
    if (i < 0) {
      fill_part(key, round_keys, element, scale, skipped,
                count < kBlock - skipped ? count : kBlock - skipped, out);
      i += kBlock, element += kBlock;
    }
    for (; i + kBlock <= count; i += kBlock, element += kBlock) {
      fill_block(key, round_keys, element, scale, out + i);
    }
    if (i < count) fill_part(key, round_keys, element, scale, 0, count - i, out + i);
  }

  static void box_muller(const uint32_t* radius, const uint32_t* angle, float* z0, float* z1,
                         int64_t count) {
    for (int64_t i = 0; i < count; i += L::kLanes) {
      const int64_t live = count - i < L::kLanes ? count - i : L::kLanes;
      U words[2] = {};
      F z[2];
      memcpy(&words[0], radius + i, live * sizeof(uint32_t));
      memcpy(&words[1], angle + i, live * sizeof(uint32_t));
      fastdiff::box_muller<L>(words[0], words[1], z[0], z[1]);
      memcpy(z0 + i, &z[0], live * sizeof(float));
      memcpy(z1 + i, &z[1], live * sizeof(float));
    }
  }

  static void exponential(const float* x, float* out, int64_t count) {
    for (int64_t i = 0; i < count; i += L::kLanes) {
      const int64_t live = count - i < L::kLanes ? count - i : L::kLanes;
      F value = L::splat(0.0f);
      memcpy(&value, x + i, live * sizeof(float));
      value = fastdiff::exponential<L>(value);
      memcpy(out + i, &value, live * sizeof(float));
    }
  }

  /// Returns the kernel that is specialised for these terms of a table row (Terms in step.h).
  static StepChunk step(int history, bool output, bool noise, bool write) {
    switch (history) {
      case 0:
        return step_of<0>(output, noise, write);
      case 1:
        return step_of<1>(output, noise, write);
      case 2:
        return step_of<2>(output, noise, write);
      case 3:
        return step_of<3>(output, noise, write);
      default:
        return step_of<4>(output, noise, write);
    }
  }

 private:
  static FASTDIFF_INLINE void fill_block(const NoiseKey& key, const RoundKeys<L>& round_keys,
                                         uint64_t element, float scale, float* out) {
    F z[kVectors];
    normals<L>(key, round_keys, element / 4, z);
    FASTDIFF_UNROLL
    for (int j = 0; j < kVectors; ++j) L::store(out + j * L::kLanes, z[j] * scale);
  }

  static void fill_part(const NoiseKey& key, const RoundKeys<L>& round_keys, uint64_t element,
                        float scale, int64_t skip, int64_t count, float* out) {
    float block[kBlock];
    fill_block(key, round_keys, element, scale, block);
    memcpy(out, block + skip, size_t(count) * sizeof(float));
  }

  template <int kHistory>
  static StepChunk step_of(bool output, bool noise, bool write) {
    static constexpr StepChunk table[2][2][2] = {
        {{chunk<Terms<kHistory, false, false, false>>, chunk<Terms<kHistory, false, false, true>>},
         {chunk<Terms<kHistory, false, true, false>>, chunk<Terms<kHistory, false, true, true>>}},
        {{chunk<Terms<kHistory, true, false, false>>, chunk<Terms<kHistory, true, false, true>>},
         {chunk<Terms<kHistory, true, true, false>>, chunk<Terms<kHistory, true, true, true>>}}};
    return table[output][noise][write];
  }

  /// A StepChunk: computes elements [first, first + count) of a row; T says which terms it has.
  template <class T>
  static bool chunk(const StepRow& row, int64_t first, int64_t count) {
    const StepRow local = row;  // a copy, which no store can change, stays in registers
    const RoundKeys<L> round_keys(row.noise.key0, row.noise.key1);
    U bad[kVectors] = {};
    int64_t i = first;
    for (const int64_t end = first + count / kBlock * kBlock; i < end; i += kBlock) {
      block<T>(local, round_keys, i, uint64_t(i), bad);
    }
    uint32_t lanes[kBlock];
    memcpy(lanes, bad, sizeof lanes);
    uint32_t any = 0;
    for (uint32_t lane : lanes) any |= lane;
    if (const int64_t rest = first + count - i) any |= tail<T>(row, i, rest);
    return any == 0;
  }

  /// Computes the last, incomplete block on padded copies of its operands. The padding is not
  /// looked at when the result is checked to be finite.
  template <class T>
  static uint32_t tail(const StepRow& row, int64_t first, int64_t count) {
    struct alignas(64) Scratch {
      float state[kBlock], history[kHistorySlots][kBlock], history_out[kBlock], denoised[kBlock];
      float cond[kBlock], uncond[kBlock], log_scale[kBlock], next_input[kBlock];
    } scratch = {};
    const auto copy_in = [&](const void* from, ElementType type, float* to) -> float* {
      if (!from) return nullptr;
      memcpy(to, static_cast<const char*>(from) + first * size_of(type), count * size_of(type));
      return to;
    };
    const auto copy_out = [&](const float* from, void* to, ElementType type) {
      if (!to) return;
      memcpy(static_cast<char*>(to) + first * size_of(type), from, count * size_of(type));
    };
    constexpr ElementType kFloat32 = ElementType::kFloat32;

    StepRow padded = row;
    padded.state = copy_in(row.state, kFloat32, scratch.state);
    for (int j = 0; j < T::kHistory; ++j) {
      padded.history[j] = copy_in(row.history[j], kFloat32, scratch.history[j]);
    }
    padded.cond = copy_in(row.cond, row.output_type, scratch.cond);
    padded.uncond = copy_in(row.uncond, row.output_type, scratch.uncond);
    padded.log_scale = copy_in(row.log_scale, row.output_type, scratch.log_scale);
    padded.history_out = scratch.history_out;
    padded.denoised = row.denoised ? scratch.denoised : nullptr;
    padded.next_input = row.next_input ? scratch.next_input : nullptr;

    const RoundKeys<L> round_keys(row.noise.key0, row.noise.key1);
    U bad[kVectors] = {};
    block<T>(padded, round_keys, 0, uint64_t(first), bad);

    copy_out(scratch.state, row.state, kFloat32);
    if (T::kWrite) copy_out(scratch.history_out, row.history_out, kFloat32);
    copy_out(scratch.denoised, row.denoised, kFloat32);
    copy_out(scratch.next_input, row.next_input, row.next_type);
    uint32_t lanes[kBlock], any = 0;
    memcpy(lanes, bad, sizeof lanes);
    for (int64_t i = 0; i < count; ++i) any |= lanes[i];
    return any;
  }

  /// Computes elements [i, i + kBlock) of the arrays of `row`. Their noise is that of the elements
  /// [element, element + kBlock) of the image, since `row` may hold copies of part of it.
  template <class T>
  static FASTDIFF_INLINE void block(const StepRow& row, const RoundKeys<L>& round_keys, int64_t i,
                                    uint64_t element, U (&bad)[kVectors]) {
    const TableRow& table = row.table;
    const Combination<L, T> to_state(table.x, row.history_slots);
    const Combination<L, T> to_history(table.h, row.history_slots);
    F m[kVectors], z[kVectors] = {};

    load(row.cond, row.output_type, i, m);
    if (row.uncond) {
      F m_u[kVectors];
      load(row.uncond, row.output_type, i, m_u);
      FASTDIFF_UNROLL
      for (int j = 0; j < kVectors; ++j) m[j] = guided<L>(m_u[j], m[j], row.guidance);
    }
    if constexpr (T::kNoise) {
      normals<L>(row.noise, round_keys, element / 4, z);
      if (row.log_scale) {
        F v[kVectors];
        load(row.log_scale, row.output_type, i, v);
        FASTDIFF_UNROLL
        for (int j = 0; j < kVectors; ++j) {
          bad[j] |= not_finite(v[j]);
          z[j] = fastdiff::exponential<L>(v[j] * table.w) * z[j];
        }
      }
    }
    F next[kVectors];
    FASTDIFF_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      const int64_t at = i + j * L::kLanes;
      const F x = L::load(row.state + at);
      const F D = denoised<L>(x, m[j], table);
      F P[T::kHistory + 1];
      FASTDIFF_UNROLL
      for (int k = 0; k < T::kHistory; ++k) P[k] = L::load(row.history[k] + at);
      next[j] = combine<L, T>(to_state, x, D, m[j], P, z[j]);
      L::store(row.state + at, next[j]);
      if constexpr (T::kWrite) {
        L::store(row.history_out + at, combine<L, T>(to_history, x, D, m[j], P, z[j]));
      }
      if (row.denoised) L::store(row.denoised + at, D);
      bad[j] |= not_finite(m[j]) | not_finite(next[j]);
    }
    if (row.next_input) {
      FASTDIFF_UNROLL
      for (int j = 0; j < kVectors; ++j) next[j] = next[j] * table.c_in_next;
      store(row.next_input, row.next_type, i, next);
    }
  }

  /// Returns 0 for a finite value, and other bits for infinity and NaN: v - v is +0 for the former
  /// and NaN for the latter.
  static FASTDIFF_INLINE U not_finite(F v) { return bit_cast<U>(v - v); }

  static FASTDIFF_INLINE void load(const void* from, ElementType type, int64_t i,
                                   F (&to)[kVectors]) {
    const float* floats = static_cast<const float*>(from) + i;
    const uint16_t* halves = static_cast<const uint16_t*>(from) + i;
    switch (type) {
      case ElementType::kFloat32:
        FASTDIFF_UNROLL
        for (int j = 0; j < kVectors; ++j) to[j] = L::load(floats + j * L::kLanes);
        break;
      case ElementType::kBFloat16:
        FASTDIFF_UNROLL
        for (int j = 0; j < kVectors; ++j) {
          to[j] = float_from_bfloat16<L>(L::load_u16(halves + j * L::kLanes));
        }
        break;
      default:
        FASTDIFF_UNROLL
        for (int j = 0; j < kVectors; ++j) to[j] = L::load_float16(halves + j * L::kLanes);
        break;
    }
  }

  static FASTDIFF_INLINE void store(void* to, ElementType type, int64_t i,
                                    const F (&from)[kVectors]) {
    float* floats = static_cast<float*>(to) + i;
    uint16_t* halves = static_cast<uint16_t*>(to) + i;
    switch (type) {
      case ElementType::kFloat32:
        FASTDIFF_UNROLL
        for (int j = 0; j < kVectors; ++j) L::store(floats + j * L::kLanes, from[j]);
        break;
      case ElementType::kBFloat16:
        FASTDIFF_UNROLL
        for (int j = 0; j < kVectors; ++j) {
          L::store_u16(halves + j * L::kLanes, bfloat16_from_float<L>(from[j]));
        }
        break;
      default:
        FASTDIFF_UNROLL
        for (int j = 0; j < kVectors; ++j) L::store_float16(halves + j * L::kLanes, from[j]);
        break;
    }
  }
};

/// Returns the instruction level whose kernels use the lane type L.
template <class L>
constexpr Level level_of(const char* name, const char* needs, bool (*supported)()) {
  using K = Kernels<L>;
  return Level{name, needs, supported, K::step, K::fill, K::box_muller, K::exponential};
}

}  // namespace fastdiff::cpu
