// A fiber, which runs one CUDA thread: a stack that the scheduler switches to, and that switches
// back at every wait.
//
// ucontext works everywhere, but makes a system call at each switch. On x86-64 a dozen instructions
// do the same. Sanitizers must be told of every switch, so they get the portable form.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define EMULATOR_ASAN 1
#endif

#if defined(__x86_64__) && defined(__ELF__) && !defined(EMULATOR_ASAN) && \
    !defined(EMULATOR_UCONTEXT)
#define EMULATOR_FAST_SWITCH 1
// Saves the callee-saved registers of the System V ABI on the stack that it leaves, and restores
// those of the stack that it switches to.
extern "C" void emulator_switch(void** save_stack, void* load_stack);
asm(".text\n"
    ".weak emulator_switch\n"
    ".type emulator_switch,@function\n"
    "emulator_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size emulator_switch, .-emulator_switch\n");
#else
#include <ucontext.h>
#endif

namespace emulator {

/// A function with a stack of its own, which can be suspended and resumed.
class Fiber {
 public:
  using Entry = void (*)();  // must never return

  void start(char* stack, size_t bytes, Entry entry);
  /// Runs the fiber until it suspends itself. The scheduler calls this.
  void resume();
  /// Switches back to the scheduler. The fiber calls this.
  void suspend();
  bool started() const { return started_; }

 private:
  bool started_ = false;
#if defined(EMULATOR_FAST_SWITCH)
  void* own_stack_ = nullptr;
  void* scheduler_stack_ = nullptr;
#else
  ucontext_t own_, scheduler_;
  Entry entry_ = nullptr;
  char* stack_ = nullptr;
  size_t bytes_ = 0;
  static void trampoline(unsigned high, unsigned low);
  // What AddressSanitizer remembers of the stack that is left.
  void *own_fake_ = nullptr, *scheduler_fake_ = nullptr;
  const void* scheduler_bottom_ = nullptr;
  size_t scheduler_bytes_ = 0;
#endif
};

#if defined(EMULATOR_FAST_SWITCH)

inline void Fiber::start(char* stack, size_t bytes, Entry entry) {
  // The first switch pops six zeros as registers and "returns" to `entry`, with the stack aligned
  // as after a call.
  const uintptr_t top = (reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t(15);
  void** frame = reinterpret_cast<void**>(top) - 8;
  memset(frame, 0, 8 * sizeof(void*));
  memcpy(frame + 6, &entry, sizeof entry);
  own_stack_ = frame;
  started_ = true;
}

inline void Fiber::resume() { emulator_switch(&scheduler_stack_, own_stack_); }
inline void Fiber::suspend() { emulator_switch(&own_stack_, scheduler_stack_); }

#else

#if defined(EMULATOR_ASAN)
#define EMULATOR_LEAVE(fake, bottom, bytes) __sanitizer_start_switch_fiber(fake, bottom, bytes)
#define EMULATOR_ENTER(fake, bottom, bytes) __sanitizer_finish_switch_fiber(fake, bottom, bytes)
#else
#define EMULATOR_LEAVE(fake, bottom, bytes) ((void)0)
#define EMULATOR_ENTER(fake, bottom, bytes) ((void)0)
#endif

inline void Fiber::trampoline(unsigned high, unsigned low) {
  Fiber* self = reinterpret_cast<Fiber*>(uintptr_t(high) << 32 | uintptr_t(low));
  EMULATOR_ENTER(nullptr, &self->scheduler_bottom_, &self->scheduler_bytes_);
  self->entry_();
}

inline void Fiber::start(char* stack, size_t bytes, Entry entry) {
  entry_ = entry, stack_ = stack, bytes_ = bytes;
  getcontext(&own_);
  own_.uc_stack.ss_sp = stack;
  own_.uc_stack.ss_size = bytes;
  own_.uc_link = nullptr;
  const uint64_t self = reinterpret_cast<uintptr_t>(this);  // makecontext passes ints only
  makecontext(&own_, reinterpret_cast<void (*)()>(trampoline), 2, unsigned(self >> 32),
              unsigned(self));
  started_ = true;
}

inline void Fiber::resume() {
  EMULATOR_LEAVE(&scheduler_fake_, stack_, bytes_);
  swapcontext(&scheduler_, &own_);
  EMULATOR_ENTER(scheduler_fake_, nullptr, nullptr);
}

inline void Fiber::suspend() {
  EMULATOR_LEAVE(&own_fake_, scheduler_bottom_, scheduler_bytes_);
  swapcontext(&own_, &scheduler_);
  EMULATOR_ENTER(own_fake_, &scheduler_bottom_, &scheduler_bytes_);
}

#endif

}  // namespace emulator
