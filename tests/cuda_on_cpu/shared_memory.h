// The shared memory of the running block. It is filled with NaN before each block, and fenced at
// both ends.
//
// Every allocation has pages of its own, between two pages that cannot be accessed. It ends where
// the second of these begins, as nearly as its alignment allows, so an access beyond it faults at
// once. The bytes that alignment leaves between the allocation and the fences are checked when the
// block ends. AddressSanitizer, if it is compiled in, is told the exact bounds.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <unordered_map>

#include "fiber.h"

namespace emulator {

/// A kernel did what a GPU does not allow. The message names the thread and the source line.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Memory between two pages that fault when they are accessed.
class FencedMemory {
 public:
  FencedMemory(size_t bytes, size_t alignment) : bytes_(bytes) {
    page_ = size_t(sysconf(_SC_PAGESIZE));
    body_ = (bytes + page_ - 1) / page_ * page_;
    map_ = static_cast<char*>(mmap(nullptr, body_ + 2 * page_, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (map_ == MAP_FAILED) throw Error("the emulator cannot map memory");
    mprotect(map_, page_, PROT_NONE);
    mprotect(map_ + page_ + body_, page_, PROT_NONE);
    data_ = map_ + page_ + (body_ - bytes) / alignment * alignment;
  }
  ~FencedMemory() {
    unpoison();
    munmap(map_, body_ + 2 * page_);
  }
  FencedMemory(const FencedMemory&) = delete;
  FencedMemory& operator=(const FencedMemory&) = delete;

  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  bool owns(const void* address) const { return address >= map_ && address < end() + page_; }

  /// Fills the memory with bytes of 0xFF, which are NaN in float32, float16 and bfloat16.
  void poison() {
    unpoison();
    memset(map_ + page_, 0xFF, body_);
#if defined(EMULATOR_ASAN)
    __asan_poison_memory_region(map_ + page_, size_t(data_ - map_) - page_);
    __asan_poison_memory_region(data_ + bytes_, size_t(end() - data_) - bytes_);
#endif
  }

  /// Whether nothing was written to the bytes between the allocation and its fences.
  bool margins_intact() {
    unpoison();
    for (const char* p = map_ + page_; p < end(); ++p) {
      if (p == data_) p += bytes_;
      if (p < end() && static_cast<unsigned char>(*p) != 0xFF) return false;
    }
    return true;
  }

 private:
  const char* end() const { return map_ + page_ + body_; }
  void unpoison() {
#if defined(EMULATOR_ASAN)
    __asan_unpoison_memory_region(map_ + page_, body_);
#endif
  }

  size_t bytes_, page_, body_;
  char *map_, *data_;
};

/// All shared memory of a block: one dynamic array and the variables that its kernel declares.
class SharedMemory {
 public:
  static constexpr size_t kLimit = 227 * 1024;  // the most that a block of sm_90 or sm_100 can have

  explicit SharedMemory(size_t dynamic_bytes) {
    if (dynamic_bytes) dynamic_ = std::make_unique<FencedMemory>(reserve(dynamic_bytes), 128);
  }

  char* dynamic() const {
    if (!dynamic_) refuse("the kernel uses dynamic shared memory but was launched with 0");
    return dynamic_->data();
  }

  /// Returns the memory of the variable `key`, which is the same for every thread of the block.
  char* variable(const void* key, size_t bytes, size_t alignment) {
    auto& memory = variables_[key];
    if (!memory) {
      memory = std::make_unique<FencedMemory>(reserve(bytes), alignment);
      memory->poison();
    }
    return memory->data();
  }

  void poison() {
    each([](FencedMemory& memory) { memory.poison(); });
  }
  bool margins_intact() {
    bool intact = true;
    each([&](FencedMemory& memory) { intact = intact && memory.margins_intact(); });
    return intact;
  }
  bool owns(const void* address) {
    bool owned = false;
    each([&](FencedMemory& memory) { owned = owned || memory.owns(address); });
    return owned;
  }

 private:
  [[noreturn]] static void refuse(const char* message);

  size_t reserve(size_t bytes) {
    used_ += bytes;
    if (used_ > kLimit) refuse("the block uses more than 227 KiB of shared memory");
    return bytes;
  }
  template <class F>
  void each(F f) {
    if (dynamic_) f(*dynamic_);
    for (auto& [key, memory] : variables_) f(*memory);
  }

  size_t used_ = 0;
  std::unique_ptr<FencedMemory> dynamic_;
  std::unordered_map<const void*, std::unique_ptr<FencedMemory>> variables_;
};

}  // namespace emulator
