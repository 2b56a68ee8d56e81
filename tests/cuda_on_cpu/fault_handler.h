// Turns a memory fault inside a kernel into an error while a launch runs.
#pragma once

#include <signal.h>

#include <vector>

#include "fiber.h"

namespace emulator {

#if defined(EMULATOR_ASAN)

/// Does nothing, since AddressSanitizer reports faults itself, and with more detail.
class FaultHandler {
 public:
  explicit FaultHandler(bool (*)(const void*)) {}
};

#else

/// Handles SIGSEGV and SIGBUS as long as the object lives.
class FaultHandler {
 public:
  /// `report` gets the address of a fault. If the fault is a kernel's, it leaves the faulting fiber
  /// and does not return. Otherwise it returns false, and the handler that was there before gets
  /// the fault.
  explicit FaultHandler(bool (*report)(const void*)) : stack_(64 * 1024) {
    report_ = report;
    // The handler needs a stack of its own, since it may be a fiber's stack that overflowed. It is
    // left by switching to another fiber and does not return, so the signal must not be blocked in
    // the meantime: SA_NODEFER.
    stack_t alternate = {};
    alternate.ss_sp = stack_.data();
    alternate.ss_size = stack_.size();
    sigaltstack(&alternate, &old_stack_);
    struct sigaction action = {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &old_segv_);
    sigaction(SIGBUS, &action, &old_bus_);
  }
  ~FaultHandler() {
    restore();
    sigaltstack(&old_stack_, nullptr);
  }
  FaultHandler(const FaultHandler&) = delete;
  FaultHandler& operator=(const FaultHandler&) = delete;

 private:
  static void restore() {
    sigaction(SIGSEGV, &old_segv_, nullptr);
    sigaction(SIGBUS, &old_bus_, nullptr);
  }
  static void handle(int, siginfo_t* info, void*) {
    if (!report_(info->si_addr)) restore();  // the instruction runs again and faults again
  }

  static inline bool (*report_)(const void*) = nullptr;
  static inline struct sigaction old_segv_, old_bus_;
  std::vector<char> stack_;
  stack_t old_stack_ = {};
};

#endif

}  // namespace emulator
