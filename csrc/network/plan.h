// A network as a flat list of kernel calls, replayed as one job by all threads.
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

/// Part of a node: its units may run at the same time, and all end before the next stage begins.
struct Stage {
  std::shared_ptr<const void> spec;
  void (*unit)(const void* spec, float* scratch, int64_t unit);  // a function of level.h
  int64_t units;
  const Rounded** rounded;  // of `spec`: what the kernel rounds to, which can be set; or null
};

/// A kernel call; floating-point operations are counted as its definition has them.
struct Node {
  std::string name;
  double flops;
  std::vector<Stage> stages;
};

/// Not copied, not moved: what it gave out stays where it is. Calls of `run` wait for each other.
class Plan {
 public:
  explicit Plan(const Level& level);
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  struct Entry {
    std::string name;
    double flops;
    size_t stages_end;
  };

  const Level& level() const { return level_; }
  const std::vector<Entry>& nodes() const { return nodes_; }
  int64_t scratch_bytes() const;

  /// Appends a node, whose stages share `scratch_floats` of memory.
  void add(Node node, int64_t scratch_floats);
  /// Whether the last node can round its output.
  bool rounds() const;
  /// Memory for rounded images, which the next node that is added reads. With `ahead`, the node
  /// before has all of its output rounded to there, and not stored.
  const Rounded* round(const Rounded& images, int64_t bytes, bool ahead);
  /// Lets the nodes work in `scratch_bytes` of the caller's memory, which plans may share that
  /// never run at the same time. Without it, the first run takes memory of its own.
  void use_scratch(float* memory);
  /// That many zeros, for as long as the plan lives.
  const float* zeros(int64_t count);

  /// Runs all nodes in order. Threads that come late, or never, cost time and nothing else.
  void run(int threads);
  /// The same; returns the seconds of each node.
  std::vector<double> profile(int threads);

 private:
  class Progress;

  void run(int threads, double* ends);
  void work(Progress& progress, size_t stage, int worker, int workers);

  /// A node may read rounded images while it writes those of the next: they lie in two places.
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

/// The levels of this build, slowest first.
const std::vector<const Level*>& levels();

}  // namespace fastdiff::network
