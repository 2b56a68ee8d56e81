// A plan: a network as a flat list of kernel calls, which all threads run together.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "level.h"

namespace fastdiff::network {

/// A part of a node: one kernel and the number of its units. The units may run at the same time;
/// all of them end before the next stage begins.
struct Stage {
  std::shared_ptr<const void> spec;
  void (*unit)(const void* spec, float* scratch, int64_t unit);
  int64_t units;
  const Rounded** rounded;  // the field `rounded` of the spec (Builder::rounded_of), or null
};

/// A node: one operation of the network. `flops` are the floating-point operations of its
/// definition, whatever algorithm computes it.
struct Node {
  std::string name;
  double flops;
  std::vector<Stage> stages;
};

/// The nodes of a network, and the memory that they share.
///
/// A plan can be neither copied nor moved, since it gives out addresses of its memory. Only one
/// call of `run` or `profile` runs at a time; others wait.
class Plan {
 public:
  explicit Plan(const Level& level);
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  /// A node that was added: its stages end before `stages_end` in the list of all stages.
  struct Entry {
    std::string name;
    double flops;
    size_t stages_end;
  };

  const Level& level() const { return level_; }
  const std::vector<Entry>& nodes() const { return nodes_; }
  int64_t scratch_bytes() const;

  /// Appends a node. Its stages share `scratch_floats` floats of scratch memory.
  void add(Node node, int64_t scratch_floats);
  /// Whether the last node can store its output rounded.
  bool rounds() const;
  /// Returns memory for rounded images, which the next node that is added reads. With `ahead`, the
  /// last node is made to round all of its output into that memory, instead of storing it as
  /// float32.
  const Rounded* round(const Rounded& images, int64_t bytes, bool ahead);
  /// Lets the nodes use `scratch_bytes()` bytes of the caller's memory as scratch memory. Plans
  /// that never run at the same time may share it. Without this call, the first run allocates it.
  void use_scratch(float* memory);
  /// Returns `count` zeros, which live as long as the plan.
  const float* zeros(int64_t count);

  /// Runs all nodes in order on up to `threads` threads. Threads that start late, or not at all,
  /// cost time and change nothing else.
  void run(int threads);
  /// Runs all nodes and returns the seconds that each took.
  std::vector<double> profile(int threads);

 private:
  class Progress;

  void run(int threads, double* ends);
  void work(Progress& progress, size_t stage, int worker, int workers);

  /// Rounded images, and which of two memory areas holds them. Nodes take turns between the two
  /// areas, since a node may read the rounded images of one while it writes those of the next.
  struct Place {
    Rounded images;
    int64_t index;
  };

  const Level& level_;
  std::vector<Entry> nodes_;
  std::vector<Stage> stages_;  // of all nodes
  std::vector<std::vector<float>> zeros_;
  std::deque<Place> rounded_;
  int64_t rounded_bytes_[2] = {};
  int64_t scratch_floats_ = 0;
  std::unique_ptr<float[]> own_scratch_;
  float* scratch_ = nullptr;
  std::mutex running_;
  std::mutex sleeping_;
  std::condition_variable wake_;
  std::atomic<int> sleepers_{0};
};

/// The instruction levels that were compiled into this build, slowest first.
const std::vector<const Level*>& levels();

}  // namespace fastdiff::network
