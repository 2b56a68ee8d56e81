// cp.async: asynchronous copies to shared memory. A copy lands, which means that its bytes are
// written, at any moment between its start and the wait for its group.
#pragma once

#include <cstddef>
#include <cstring>
#include <deque>
#include <random>
#include <vector>

#include "schedule.h"

namespace emulator {

/// The asynchronous copies of one thread.
class AsyncCopies {
 public:
  /// Starts a copy of 16 bytes: the first `valid` of them come from `from`, the rest are zeros.
  void issue(void* to, const void* from, size_t valid, std::mt19937_64& random) {
    const Copy copy{to, from, valid, false};
    open_.push_back(copy);
    if (schedule().copies == Copies::kEarly) open_.back().land();
    drift(random);
  }

  /// Makes a group of the copies that were started since the last group.
  void commit() {
    groups_.push_back(std::move(open_));
    open_.clear();
  }

  /// Lands the copies of all groups but the newest `pending` ones.
  void wait(size_t pending) {
    for (; groups_.size() > pending; groups_.pop_front()) {
      for (Copy& copy : groups_.front()) copy.land();
    }
  }

  /// In the random schedule, lands some of the copies that have not landed. The emulator calls it
  /// wherever time could pass on a GPU.
  void drift(std::mt19937_64& random) {
    if (schedule().copies != Copies::kRandom) return;
    const auto maybe_land = [&](Copy& copy) {
      if (random() % 4 == 0) copy.land();
    };
    for (auto& group : groups_) std::for_each(group.begin(), group.end(), maybe_land);
    std::for_each(open_.begin(), open_.end(), maybe_land);
  }

  bool in_flight() const { return !groups_.empty() || !open_.empty(); }
  void clear() {
    groups_.clear();
    open_.clear();
  }

 private:
  struct Copy {
    void* to;
    const void* from;
    size_t valid;
    bool landed;

    void land() {
      if (landed) return;
      landed = true;
      memset(to, 0, 16);
      memcpy(to, from, valid);
    }
  };
  std::vector<Copy> open_;
  std::deque<std::vector<Copy>> groups_;
};

}  // namespace emulator
