// The threads that kernels run on: a small pool of fastdiff's own, or those of torch's OpenMP
// runtime.
#pragma once

#include <cstdint>

namespace fastdiff::cpu {

/// Tells the processor that this thread waits in a loop.
inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Whose threads do the work. A step of a sampler wants those that its network ran on: they are
/// awake, and spin for a while longer, so that other threads would have to share their cores.
enum class Threads {
  kTorch,  // those of torch's OpenMP runtime; our own where there is none
  kOwn,    // the pool of this file, on which plans of networks run
};

/// Calls task(context, unit) once for each unit in [0, units), on up to `threads` threads, the
/// caller among them, and returns when all are done. The task must not throw.
///
/// Units are handed out by an atomic counter, so a worker that the system schedules late costs
/// little. While another caller uses the threads, the work runs inline. A child process made by
/// fork has a pool of its own. Floating point runs in the default environment (nearest even, no
/// flush to zero) whatever the caller's is, so the bits do not depend on it.
void parallel_for(Threads whose, int threads, int64_t units,
                  void (*task)(const void* context, int64_t unit), const void* context);

/// The same for any callable body(unit).
template <class Body>
void parallel_for(Threads whose, int threads, int64_t units, const Body& body) {
  parallel_for(
      whose, threads, units,
      [](const void* context, int64_t unit) { (*static_cast<const Body*>(context))(unit); }, &body);
}

}  // namespace fastdiff::cpu
