// The operations that threads of a block or of a warp do together.
#pragma once

#include <type_traits>

#include "block.h"

namespace emulator {

/// Does a collective operation of the lanes in `mask`. The last lane to arrive computes the results
/// of all of them.
///
/// `compute(in, out, mask)` gets arrays of 32 elements, of which only those of lanes in the mask
/// are used.
template <class Out, class In, class Compute>
Out collective(const Site& site, uint32_t mask, const In& in, Compute compute) {
  static_assert(sizeof(In) <= Warp::kBytes && sizeof(Out) <= Warp::kBytes);
  static_assert(std::is_trivially_copyable_v<In> && std::is_trivially_copyable_v<Out>);
  Block& block = Block::current();
  Thread& self = Block::thread();
  Warp& warp = block.warp();
  const int lane = self.lane();
  if (!(mask >> lane & 1)) block.fail("calls " + site.text() + " outside of its own lane mask");
  memcpy(warp.in[lane], &in, sizeof in);
  warp.mask[lane] = mask;
  warp.arrived |= 1u << lane;
  self.site = site;
  if ((warp.arrived & mask) != mask) {
    block.wait(Wait::kWarp, site);
  } else {
    In inputs[kWarpSize];
    Out outputs[kWarpSize] = {};
    for (int l = 0; l < kWarpSize; ++l) {
      if (!(mask >> l & 1)) continue;
      if (block.lane(l).site != site || warp.mask[l] != mask) {
        block.fail("meets lane " + std::to_string(l) + " of its warp at " + site.text() +
                   ", which came to " + block.lane(l).site.text() + " or with another mask");
      }
      memcpy(&inputs[l], warp.in[l], sizeof(In));
    }
    compute(inputs, outputs, mask);
    for (int l = 0; l < kWarpSize; ++l) {
      if (!(mask >> l & 1)) continue;
      memcpy(warp.out[l], &outputs[l], sizeof(Out));
      block.lane(l).wait = Wait::kNone;
    }
    warp.arrived &= ~mask;
  }
  Out result;
  memcpy(&result, warp.out[lane], sizeof result);
  return result;
}

/// Returns to every lane of the mask the value of the lane `source` that it names.
template <class T>
T shuffle(const Site& site, uint32_t mask, T value, int source) {
  struct Request {
    T value;
    int source;
  };
  return collective<T>(
      site, mask, Request{value, source}, [&](const Request* in, T* out, uint32_t lanes) {
        for (int l = 0; l < kWarpSize; ++l) {
          if (!(lanes >> l & 1)) continue;
          if (!(lanes >> in[l].source & 1)) {
            Block::current().fail(site.text() + " reads lane " + std::to_string(in[l].source) +
                                  ", which is not in the mask");
          }
          out[l] = in[in[l].source].value;
        }
      });
}

}  // namespace emulator

// The functions under CUDA's own names. Their default arguments are the place of the call in the
// kernel.
#define EMULATOR_SITE(operation) \
  ::emulator::Site { operation, file, line }
#define EMULATOR_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMULATOR_HERE) {
  emulator::Block::current().barrier(EMULATOR_SITE("__syncthreads"), 0);
}
inline int __syncthreads_or(int vote, EMULATOR_HERE) {
  return emulator::Block::current().barrier(EMULATOR_SITE("__syncthreads_or"), vote);
}
inline void __syncwarp(uint32_t mask = ~0u, EMULATOR_HERE) {
  emulator::collective<int>(EMULATOR_SITE("__syncwarp"), mask, 0,
                            [](const int*, int*, uint32_t) {});
}
inline uint32_t __ballot_sync(uint32_t mask, int vote, EMULATOR_HERE) {
  return emulator::collective<uint32_t>(EMULATOR_SITE("__ballot_sync"), mask, vote,
                                        [](const int* in, uint32_t* out, uint32_t lanes) {
                                          uint32_t votes = 0;
                                          for (int l = 0; l < 32; ++l) {
                                            if (lanes >> l & 1 && in[l]) votes |= 1u << l;
                                          }
                                          std::fill(out, out + 32, votes);
                                        });
}
inline int __any_sync(uint32_t mask, int vote, EMULATOR_HERE) {
  return __ballot_sync(mask, vote, file, line) != 0;
}
inline int __all_sync(uint32_t mask, int vote, EMULATOR_HERE) {
  return __ballot_sync(mask, vote, file, line) == mask;
}

// Lanes are numbered within segments of `width`. If the source is outside of the lane's segment,
// the lane gets its own value (CUDA C++ Programming Guide, "Warp Shuffle Functions").
template <class T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32, EMULATOR_HERE) {
  const int lane = emulator::Block::thread().lane();
  const int from = (lane & ~(width - 1)) + (source & (width - 1));
  return emulator::shuffle(EMULATOR_SITE("__shfl_sync"), mask, value, from);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32, EMULATOR_HERE) {
  const int lane = emulator::Block::thread().lane(), from = lane ^ bits;
  const bool later_segment = (from & ~(width - 1)) > (lane & ~(width - 1));
  return emulator::shuffle(EMULATOR_SITE("__shfl_xor_sync"), mask, value,
                           later_segment ? lane : from);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, int delta, int width = 32, EMULATOR_HERE) {
  const int lane = emulator::Block::thread().lane();
  const bool inside = (lane & (width - 1)) + delta < width;
  return emulator::shuffle(EMULATOR_SITE("__shfl_down_sync"), mask, value,
                           inside ? lane + delta : lane);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, int delta, int width = 32, EMULATOR_HERE) {
  const int lane = emulator::Block::thread().lane();
  const bool inside = (lane & (width - 1)) - delta >= 0;
  return emulator::shuffle(EMULATOR_SITE("__shfl_up_sync"), mask, value,
                           inside ? lane - delta : lane);
}
