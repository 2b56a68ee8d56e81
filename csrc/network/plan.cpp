#include "plan.h"

#include <algorithm>
#include <chrono>

#include "../cpu/thread_pool.h"

namespace fastdiff::network {
namespace {

constexpr int kSpins = 2000;  // some tens of microseconds
constexpr int64_t kAlignment = 64;

double now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

}  // namespace

/// How many units of each stage have been taken and done.
///
/// The units of a stage are divided into ranges, one for each worker. Neighbouring units share
/// operands, and what a worker computed in one stage is in its own cache for the next one. A worker
/// that has finished its range goes on with those of others. A stage has ended when all its units
/// are done, whoever did them, so no worker waits for a thread that has not started.
class Plan::Progress {
 public:
  Progress(size_t stages, int workers)
      : workers_(workers),
        line_(divided_up(int64_t(stages), kAlignment / 8) * kAlignment / 8),
        taken_(size_t(line_ * workers)),
        done_(stages) {}

  /// Takes the next unit of a range. Returns its number, or -1 if none is left.
  int64_t take(size_t stage, int64_t units, int range) {
    std::atomic<int64_t>& taken = taken_[size_t(range * line_) + stage];
    const int64_t first = units * range / workers_, end = units * (range + 1) / workers_;
    if (first + taken.load(std::memory_order_relaxed) >= end) return -1;
    const int64_t unit = first + taken.fetch_add(1, std::memory_order_relaxed);
    return unit < end ? unit : -1;
  }

  std::atomic<int64_t>& done(size_t stage) { return done_[stage]; }

 private:
  // `line_` counters belong to each range. They fill whole cache lines, which no two ranges share.
  const int64_t workers_, line_;
  std::vector<std::atomic<int64_t>> taken_, done_;
};

/// Does units of a stage while any are left, and returns when all of them are done.
void Plan::work(Progress& progress, size_t index, int worker, int workers) {
  const Stage& stage = stages_[index];
  std::atomic<int64_t>& done = progress.done(index);
  const auto ended = [&] { return done.load() >= stage.units; };
  int64_t mine = 0;
  for (int i = 0; i < workers; ++i) {
    const int range = (worker + i) % workers;
    for (int64_t unit; (unit = progress.take(index, stage.units, range)) >= 0; ++mine) {
      stage.unit(stage.spec.get(), scratch_, unit);
    }
  }
  if (mine && done.fetch_add(mine) + mine == stage.units && sleepers_.load() > 0) {
    const std::lock_guard<std::mutex> lock(sleeping_);
    wake_.notify_all();
  }
  for (int spins = 0; spins < kSpins; ++spins) {
    if (ended()) return;
    cpu::pause();
  }
  // Another thread is late. It may need this core, so this thread sleeps.
  std::unique_lock<std::mutex> lock(sleeping_);
  ++sleepers_;
  wake_.wait(lock, ended);
  --sleepers_;
}

Plan::Plan(const Level& level) : level_(level) {}
Plan::~Plan() = default;

void Plan::add(Node node, int64_t scratch_floats) {
  for (Stage& stage : node.stages) stages_.push_back(stage);
  nodes_.push_back({std::move(node.name), node.flops, stages_.size()});
  scratch_floats_ = std::max(scratch_floats_, divided_up(scratch_floats, 16) * 16);
  if (own_scratch_) own_scratch_.reset(), scratch_ = nullptr;
}

int64_t Plan::scratch_bytes() const {
  return scratch_floats_ * int64_t(sizeof(float)) + rounded_bytes_[0] + rounded_bytes_[1];
}

bool Plan::rounds() const { return !stages_.empty() && stages_.back().rounded; }

const Rounded* Plan::round(const Rounded& images, int64_t bytes, bool ahead) {
  const int64_t index = int64_t(rounded_.size() % 2);
  rounded_.push_back({images, index});
  rounded_bytes_[index] = std::max(rounded_bytes_[index], bytes);
  const Rounded* place = &rounded_.back().images;
  const size_t first = nodes_.size() > 1 ? nodes_.end()[-2].stages_end : 0;
  for (size_t i = first; ahead && i < stages_.size(); ++i) *stages_[i].rounded = place;
  return place;
}

void Plan::use_scratch(float* memory) {
  scratch_ = memory;
  uint8_t* places[2] = {reinterpret_cast<uint8_t*>(memory + scratch_floats_)};
  places[1] = places[0] + rounded_bytes_[0];
  for (Place& place : rounded_) place.images.pixels = places[place.index];
}

const float* Plan::zeros(int64_t count) {
  if (zeros_.empty() || int64_t(zeros_.back().size()) < count) {
    zeros_.emplace_back(size_t(count), 0.0f);  // the addresses given out before stay valid
  }
  return zeros_.back().data();
}

void Plan::run(int threads) { run(threads, nullptr); }

std::vector<double> Plan::profile(int threads) {
  std::vector<double> ends(nodes_.size());
  const double begin = now();
  run(threads, ends.data());
  for (size_t i = ends.size(); i-- > 0;) ends[i] -= i ? ends[i - 1] : begin;
  return ends;
}

void Plan::run(int threads, double* ends) {
  const std::lock_guard<std::mutex> one_caller(running_);
  if (!scratch_ && scratch_bytes()) {
    own_scratch_.reset(new float[size_t(scratch_bytes()) / sizeof(float)]);
    use_scratch(own_scratch_.get());
  }
  Progress progress(stages_.size(), threads);
  cpu::parallel_for(cpu::Threads::kOwn, threads, threads, [&](int64_t worker) {
    size_t stage = 0;
    for (size_t node = 0; node < nodes_.size(); ++node) {
      for (; stage < nodes_[node].stages_end; ++stage) {
        work(progress, stage, int(worker), threads);
      }
      if (ends && worker == 0) ends[node] = now();
    }
  });
}

}  // namespace fastdiff::network
