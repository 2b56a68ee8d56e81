#include "thread_pool.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace fastdiff::cpu {
namespace {

constexpr int kMaxWorkers = 255;
constexpr int kSpins = 4000;  // about 50 us; a sampler's next step usually comes later than that

/// Sets the default floating-point environment, and restores the caller's at the end.
class DefaultFloatEnvironment {
 public:
  DefaultFloatEnvironment() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloatEnvironment() { std::fesetenv(&saved_); }
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

 private:
  std::fenv_t saved_;
};

/// The units of one parallel_for.
struct Job {
  void (*task)(const void*, int64_t);
  const void* context;
  int64_t units;
  std::atomic<int64_t> next{0};

  /// Does units until none is left.
  void work() {
    for (int64_t unit; (unit = next.fetch_add(1, std::memory_order_relaxed)) < units;) {
      task(context, unit);
    }
  }
};

/// Threads that sleep until a caller has a job. They are started when they are first needed and
/// live as long as the process.
class ThreadPool {
 public:
  /// Runs the job with the help of up to `helpers` workers. Returns false, having done nothing, if
  /// another caller is using the pool.
  bool run(Job& job, int helpers) {
    const DefaultFloatEnvironment environment;
    std::unique_lock<std::mutex> one_caller(caller_, std::try_to_lock);
    if (!one_caller) return false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (workers_ < helpers && start_worker()) {
      }
      job_ = &job;
      seats_ = helpers;
      tickets_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job.work();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      seats_ = 0;  // no more workers may join, since no unit is left
    }
    // The workers that have joined are within one unit of their end. Spinning for that long is
    // quicker than to sleep and be woken.
    for (int i = 0; i < kSpins && joined_.load(std::memory_order_acquire) != 0; ++i) pause();
    std::unique_lock<std::mutex> lock(mutex_);
    idle_.wait(lock, [&] { return joined_ == 0; });
    return true;
  }

 private:
  bool start_worker() {
    try {
      std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {
      return false;  // the system has no thread to spare, so fewer workers do the work
    }
    ++workers_;
    return true;
  }

  /// What each worker runs: waits for a job, joins it if there is a seat left, and waits again.
  void serve() {
    const DefaultFloatEnvironment environment;
    uint64_t seen = tickets_.load(std::memory_order_acquire) - 1;
    for (;;) {
      for (int i = 0; i < kSpins && tickets_.load(std::memory_order_acquire) == seen; ++i) pause();
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return tickets_.load(std::memory_order_relaxed) != seen; });
      seen = tickets_.load(std::memory_order_relaxed);
      if (seats_ == 0) continue;
      --seats_;
      ++joined_;
      Job* job = job_;
      lock.unlock();
      job->work();
      lock.lock();
      if (--joined_ == 0) idle_.notify_one();
    }
  }

  std::mutex caller_;  // held by the caller whose job runs
  std::mutex mutex_;   // guards what follows
  std::condition_variable wake_, idle_;
  Job* job_ = nullptr;
  // The threads that were started, and how many of them may still join the job.
  int workers_ = 0, seats_ = 0;
  std::atomic<int> joined_{0};        // workers that are at work on the job
  std::atomic<uint64_t> tickets_{0};  // the number of jobs so far, by which workers know a new one
};

std::atomic<bool> g_forked{false};         // whether this process is a fork's child
std::atomic<ThreadPool*> g_pool{nullptr};  // never destroyed, as workers may outlive static objects

void watch_for_forks() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] {
    // The child process has no workers, and a lock that was held at the fork stays locked in it.
    g_forked.store(true, std::memory_order_relaxed);
    g_pool.store(nullptr, std::memory_order_release);
  });
  (void)registered;
}

/// Returns the pool of this process, which is made at the first call.
ThreadPool& pool() {
  if (ThreadPool* existing = g_pool.load(std::memory_order_acquire)) return *existing;
  auto* made = new ThreadPool;
  ThreadPool* other = nullptr;
  if (g_pool.compare_exchange_strong(other, made, std::memory_order_acq_rel)) return *made;
  delete made;  // another thread was first; this one has no workers yet
  return *other;
}

// The entry point of the OpenMP runtime that torch has loaded, if any. It is that of libgomp, which
// the runtimes of LLVM and Intel export too. Right after a network that torch ran, the OpenMP
// threads still spin for some milliseconds, and threads of our own would have to share the cores
// with them.
using OpenMpParallel = void (*)(void (*body)(void*), void* context, unsigned threads,
                                unsigned flags);

/// Returns that entry point, or null if no OpenMP runtime is loaded.
OpenMpParallel host_openmp() {
  static const auto parallel =
      reinterpret_cast<OpenMpParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return parallel;
}

void work_in_default_environment(void* job) {
  const DefaultFloatEnvironment environment;
  static_cast<Job*>(job)->work();
}

/// Runs the job on the host's OpenMP threads; false if there are none to be had.
bool run_on_openmp(Job& job, int threads) {
  static std::mutex one_caller;
  const std::unique_lock<std::mutex> lock(one_caller, std::try_to_lock);
  if (!lock || !host_openmp()) return false;
  host_openmp()(work_in_default_environment, &job, unsigned(threads), 0);
  return true;
}

}  // namespace

void parallel_for(Threads whose, int threads, int64_t units, void (*task)(const void*, int64_t),
                  const void* context) {
  Job job{task, context, units};
  int64_t helpers = threads - 1 < kMaxWorkers ? threads - 1 : kMaxWorkers;
  helpers = helpers < units - 1 ? helpers : units - 1;
  if (helpers > 0) {
    watch_for_forks();
    const bool forked = g_forked.load(std::memory_order_relaxed);  // OpenMP does not survive it
    if (whose == Threads::kTorch && !forked && run_on_openmp(job, int(helpers) + 1)) return;
    if (pool().run(job, int(helpers))) return;
  }
  work_in_default_environment(&job);
}

}  // namespace fastdiff::cpu
