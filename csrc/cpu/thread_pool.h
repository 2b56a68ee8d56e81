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

/// Calls task(context, unit) once for each unit in [0, units), on up to `threads` threads, the
/// caller among them, and returns when all are done. The task must not throw.
///
/// Units are handed out by an atomic counter, so a worker that the system schedules late costs
/// little. While another caller uses the threads, all units run on the calling thread. A child
/// process made by fork gets a pool of its own. Units run in the default floating-point environment
/// (rounding to nearest, no flush to zero) whatever the caller's is, so the bits do not depend on
/// it.
void parallel_for(int threads, int64_t units, void (*task)(const void* context, int64_t unit),
                  const void* context);

/// Makes parallel_for use fastdiff's own pool for the next ten milliseconds.
///
/// Otherwise it uses the threads of torch's OpenMP runtime, if that is loaded: after a network that
/// torch ran, these are the threads that are awake. The native backend runs its network on the pool
/// and calls this before and after, so that the step that follows does not wake torch's threads,
/// which would compete for the cores.
void use_own_threads();

/// The same for any callable body(unit).
template <class Body>
void parallel_for(int threads, int64_t units, const Body& body) {
  parallel_for(
      threads, units,
      [](const void* context, int64_t unit) { (*static_cast<const Body*>(context))(unit); }, &body);
}

}  // namespace fastdiff::cpu
