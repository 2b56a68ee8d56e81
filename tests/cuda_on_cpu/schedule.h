// In which order threads run, and when asynchronous copies land.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

namespace emulator {

/// No order is promised by a GPU, so a correct kernel gives the same result in every one.
enum class Order : int {
  kLockStep,  // every thread to its next wait, in turn
  kAhead,     // warp 0 runs until it must wait for others, then warp 1, ...
  kReverse,   // the same from the last block, warp and lane
  kRandom,    // blocks, warps and lanes shuffled anew at every round
};

/// When a cp.async lands: any moment between its issue and the wait for its group.
enum class Copies : int { kEarly, kLate, kRandom };

struct Schedule {
  Order order = Order::kLockStep;
  Copies copies = Copies::kLate;
  uint64_t seed = 0;
};

inline Schedule& schedule() {
  static Schedule current;
  return current;
}

/// 0, 1, ..., count - 1 in the order in which the schedule visits them.
inline std::vector<int> visiting_order(int count, std::mt19937_64& random) {
  std::vector<int> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  if (schedule().order == Order::kReverse) std::reverse(order.begin(), order.end());
  if (schedule().order == Order::kRandom) std::shuffle(order.begin(), order.end(), random);
  return order;
}

/// What the kernels did since the counters were last read.
struct Counters {
  uint64_t blocks, barriers, matrix_products, matrix_loads;
  uint64_t bank_conflicts;  // of matrix loads: 16-byte rows of one 8 x 8 matrix in the same banks
};

inline Counters& counters() {
  static Counters current = {};
  return current;
}

}  // namespace emulator
