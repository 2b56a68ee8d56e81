// A block of CUDA threads on one CPU core. Each thread is a fiber, which runs until it must wait.
#pragma once

#include <signal.h>

#include <functional>
#include <string>
#include <vector>

#include "async_copy.h"
#include "fault_handler.h"
#include "schedule.h"
#include "shared_memory.h"

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 {
  unsigned x, y, z;
};

namespace emulator {

constexpr int kWarpSize = 32;
constexpr int kMaxThreads = 1024;
#if defined(EMULATOR_ASAN)
constexpr size_t kStackBytes = 512 * 1024;  // instrumented frames are large
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif

/// A place in the source of the kernel where threads wait for each other.
struct Site {
  const char* operation;
  const char* file;
  int line;

  bool operator==(const Site& other) const {
    return operation == other.operation && file == other.file && line == other.line;
  }
  bool operator!=(const Site& other) const { return !(*this == other); }
  std::string text() const {
    return std::string(operation) + " (" + file + ":" + std::to_string(line) + ")";
  }
};

/// What a thread waits for.
enum class Wait { kNone, kBlock, kWarp, kExited };

/// One thread of the block.
struct Thread {
  Fiber fiber;
  uint3 index = {};
  int number = 0;  // its number in the block
  Wait wait = Wait::kExited;
  Site site = {};  // where it waits
  int vote = 0;    // its argument of __syncthreads_or
  AsyncCopies copies;

  int lane() const { return number % kWarpSize; }
};

/// The lanes of a warp that have arrived at a collective operation, with the operand and the result
/// of each.
struct Warp {
  static constexpr size_t kBytes = 64;
  uint32_t arrived = 0;
  uint32_t mask[kWarpSize];
  alignas(16) char in[kWarpSize][kBytes], out[kWarpSize][kBytes];
};

/// The block that runs: its threads, its shared memory, and the scheduler that runs one thread at a
/// time. The same object runs all blocks of a grid, one after the other.
class Block {
 public:
  Block(dim3 grid, dim3 size, size_t shared_bytes, std::function<void()> kernel);
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  /// Runs the kernel for every block of the grid; throws Error.
  void run_grid();

  static Block& current() { return *current_; }
  /// Whether a kernel is running, rather than the scheduler or no block at all.
  static bool in_kernel() { return current_ && current_->on_fiber_; }
  static Thread& thread() { return *current_->running_; }

  /// Suspends the running thread until another thread ends the wait.
  void wait(Wait kind, const Site& site);
  /// __syncthreads: returns whether any thread voted.
  int barrier(const Site& site, int vote);
  /// Reports a fault of the running thread, which never runs again.
  [[noreturn]] void fail(const std::string& message);

  Warp& warp() { return warps_[size_t(running_->number / kWarpSize)]; }
  Thread& lane(int lane) {
    return threads_[size_t(running_->number / kWarpSize * kWarpSize + lane)];
  }

  std::mt19937_64& random() { return random_; }

  dim3 grid, size;
  uint3 index = {};
  SharedMemory shared;

 private:
  static void enter();
  static bool on_fault(const void* address);

  void run_block();
  bool run_round();
  bool run_thread(int number);
  void release_barrier();
  std::string deadlock() const;
  std::string name(const Thread& thread) const;

  static inline thread_local Block* current_ = nullptr;

  std::function<void()> kernel_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  Thread* running_ = nullptr;
  bool on_fiber_ = false;
  int exited_ = 0, at_barrier_ = 0, voted_ = 0, result_ = 0;
  std::mt19937_64 random_;
  std::string error_;
  FencedMemory stacks_;
};

inline Block::Block(dim3 grid, dim3 size, size_t shared_bytes, std::function<void()> kernel)
    : grid(grid),
      size(size),
      shared(shared_bytes),
      kernel_(std::move(kernel)),
      threads_(size_t(size.x) * size.y * size.z),
      warps_((threads_.size() + kWarpSize - 1) / kWarpSize),
      stacks_(threads_.size() * (kStackBytes + size_t(sysconf(_SC_PAGESIZE))), 1) {
  if (threads_.empty() || threads_.size() > kMaxThreads) {
    throw Error("a block has 1 to 1024 threads, got " + std::to_string(threads_.size()));
  }
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  for (size_t i = 0; i < threads_.size(); ++i) {
    threads_[i].number = int(i);
    threads_[i].index = {unsigned(i % size.x), unsigned(i / size.x % size.y),
                         unsigned(i / size.x / size.y)};
    mprotect(stacks_.data() + i * (kStackBytes + page), page, PROT_NONE);
  }
}

inline Block::~Block() = default;

inline void SharedMemory::refuse(const char* message) {
  if (Block::in_kernel()) Block::current().fail(message);
  throw Error(message);
}

inline void Block::run_grid() {
  Block* const outer = current_;
  current_ = this;
  random_.seed(schedule().seed);
  struct Restore {
    Block* outer;
    ~Restore() { current_ = outer; }
  } restore{outer};
  const FaultHandler faults(on_fault);
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  for (int i : visiting_order(int(blocks), random_)) {
    index = {unsigned(i) % grid.x, unsigned(i) / grid.x % grid.y, unsigned(i) / grid.x / grid.y};
    run_block();
  }
}

inline void Block::run_block() {
  shared.poison();
  exited_ = at_barrier_ = voted_ = 0;
  for (Warp& warp : warps_) warp.arrived = 0;
  for (Thread& thread : threads_) thread.wait = Wait::kNone;
  ++counters().blocks;
  while (exited_ < int(threads_.size())) {
    if (!run_round()) throw Error(deadlock());
  }
  if (!shared.margins_intact()) {
    throw Error("the block wrote next to a shared array, outside of it" + name(threads_[0]));
  }
}

/// Visits every thread or warp once. Returns false if none could run.
inline bool Block::run_round() {
  bool progress = false;
  if (schedule().order == Order::kLockStep) {
    for (int i = 0; i < int(threads_.size()); ++i) progress |= run_thread(i);
    return progress;
  }
  for (int warp : visiting_order(int(warps_.size()), random_)) {
    for (bool again = true; again;) {
      again = false;
      for (int lane : visiting_order(kWarpSize, random_)) {
        again |= run_thread(warp * kWarpSize + lane);
      }
      progress |= again;
    }
  }
  return progress;
}

inline bool Block::run_thread(int number) {
  if (number >= int(threads_.size()) || threads_[size_t(number)].wait != Wait::kNone) return false;
  running_ = &threads_[size_t(number)];
  if (!running_->fiber.started()) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    char* stack = stacks_.data() + size_t(number) * (kStackBytes + page) + page;
    running_->fiber.start(stack, kStackBytes, enter);
  }
  running_->copies.drift(random_);
  on_fiber_ = true;
  running_->fiber.resume();
  on_fiber_ = false;
  if (!error_.empty()) throw Error(error_ + name(*running_));
  return true;
}

/// The function that every fiber runs: it calls the kernel once for each block.
inline void Block::enter() {
  for (;;) {
    Block& block = current();
    block.kernel_();
    if (thread().copies.in_flight()) block.fail("exited with cp.async in flight");
    ++block.exited_;
    block.running_->wait = Wait::kExited;
    block.release_barrier();
    thread().fiber.suspend();
  }
}

inline void Block::wait(Wait kind, const Site& site) {
  running_->wait = kind;
  running_->site = site;
  running_->fiber.suspend();
}

inline int Block::barrier(const Site& site, int vote) {
  for (const Thread& other : threads_) {
    if (other.wait == Wait::kBlock && other.site != site) {
      fail("is at " + site.text() + " while thread " + std::to_string(other.number) + " waits at " +
           other.site.text());
    }
  }
  ++at_barrier_;
  voted_ |= vote != 0;
  Thread& self = *running_;
  self.wait = Wait::kBlock;
  self.site = site;
  release_barrier();
  if (self.wait == Wait::kBlock) self.fiber.suspend();
  return result_;
}

/// Ends the barrier as soon as all threads that have not exited are at it.
inline void Block::release_barrier() {
  if (at_barrier_ == 0 || at_barrier_ + exited_ < int(threads_.size())) return;
  for (Thread& thread : threads_) {
    if (thread.wait == Wait::kBlock) thread.wait = Wait::kNone;
  }
  result_ = voted_;
  at_barrier_ = voted_ = 0;
  ++counters().barriers;
}

inline void Block::fail(const std::string& message) {
  if (error_.empty()) error_ = message;
  for (;;) running_->fiber.suspend();
}

/// Reports a memory fault on a fiber as a mistake of the kernel, like every other one.
inline bool Block::on_fault(const void* address) {
  if (!in_kernel()) return false;
  char where[32];
  snprintf(where, sizeof where, "%p", address);
  Block& block = current();
  block.fail(block.shared.owns(address) ? "touches shared memory outside of its array"
             : block.stacks_.owns(address)
                 ? "overflows its stack"
                 : "touches memory at " + std::string(where) + ", where there is none");
}

inline std::string Block::name(const Thread& thread) const {
  const auto triple = [](uint3 v) {
    return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) +
           ")";
  };
  return " [block " + triple(index) + ", thread " + triple(thread.index) + "]";
}

inline std::string Block::deadlock() const {
  std::string message = "deadlock: ";
  int waiting = 0;
  for (const Thread& thread : threads_) waiting += thread.wait != Wait::kExited;
  message += std::to_string(waiting) + " threads wait and " + std::to_string(exited_) + " exited;";
  const Site* last = nullptr;
  for (const Thread& thread : threads_) {
    if (thread.wait == Wait::kExited || (last && *last == thread.site)) continue;
    last = &thread.site;
    message += " thread " + std::to_string(thread.number) + " at " + last->text() + ";";
  }
  message.back() = ' ';
  return message + name(threads_[0]);
}

}  // namespace emulator
