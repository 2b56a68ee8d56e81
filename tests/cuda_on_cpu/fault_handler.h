// Turns a memory fault inside a kernel into an error, for the time of a launch.
#pragma once

#include <signal.h>

#include <vector>

#include "fiber.h"

namespace emulator {

#if defined(EMULATOR_ASAN)

/// AddressSanitizer reports faults itself, and better.
class FaultHandler {
 public:
  explicit FaultHandler(bool (*)(const void*)) {}
};

#else

class FaultHandler {
 public:
  /// `report` gets the address; it leaves the faulting fiber for good, or returns false for a fault
  /// that is not a kernel's, which then goes to whoever handled it before.
  explicit FaultHandler(bool (*report)(const void*)) : stack_(64 * 1024) {
    report_ = report;
    // A fiber's stack may be what overflowed, so the handler needs one of its own. It is left by
    // switching fibers, never by returning, so the signal must not stay blocked: SA_NODEFER.
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
