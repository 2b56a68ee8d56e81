// The schedule: in which order threads run, and when asynchronous copies land.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

namespace emulator {

/// The order in which threads run. A GPU promises none, so a correct kernel gives the same result
/// in each of them.
enum class Order : int {
  kLockStep,  // every thread in turn runs to its next wait
  kAhead,     // warp 0 runs until it must wait for others, then warp 1, and so on
  kReverse,   // as kAhead, but from the last block, warp and lane to the first
  kRandom,    // blocks, warps and lanes in an order that is drawn anew in every round
};

/// When a cp.async lands: at its start, at the wait for its group, or at random in between.
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

/// Returns the numbers 0 to count - 1 in the order in which the schedule visits them.
inline std::vector<int> visiting_order(int count, std::mt19937_64& random) {
  std::vector<int> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  if (schedule().order == Order::kReverse) std::reverse(order.begin(), order.end());
  if (schedule().order == Order::kRandom) std::shuffle(order.begin(), order.end(), random);
  return order;
}

/// Counts of what the kernels did since the counters were last read.
struct Counters {
  uint64_t blocks, barriers, matrix_products, matrix_loads;
  uint64_t bank_conflicts;  // of ldmatrix: 16-byte rows of an 8 x 8 matrix in the same banks
};

inline Counters& counters() {
  static Counters current = {};
  return current;
}

}  // namespace emulator
