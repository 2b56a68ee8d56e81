// The instruction level "amx": AVX-512 with AMX, which multiplies tiles of bfloat16 or 8-bit
// integers in tile registers.
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <type_traits>

#include "avx512.h"
#include "kernels.h"

namespace fastdiff::network {
namespace {

// These macros replace the intrinsics, since those of GCC 12 for tile loads do not tell the
// compiler that they read memory: it may move a store behind the load that needs it.
#define FASTDIFF_TILE_LOAD(tile, from, bytes) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"(int64_t(bytes)) : "memory")
#define FASTDIFF_TILE_STORE(tile, to, bytes) \
  asm volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(to), "r"(int64_t(bytes)) : "memory")
#define FASTDIFF_TILE_PRODUCT(instruction, sum, a, b) \
  asm volatile(#instruction " %%tmm" #b ", %%tmm" #a ", %%tmm" #sum : :)
#define FASTDIFF_TILE_ZERO(tile) asm volatile("tilezero %%tmm" #tile : :)

/// The tile multiplier (tile_math.h) of AMX. Tile registers 0 to 3 hold the sums, 4 and 5 tiles of
/// B, 6 and 7 tiles of A. A thread can have only one object at a time, as it owns the registers.
template <class S>
struct AmxTiles {
  static constexpr const char* kName = "AMX";
  using Sum = S;

  AmxTiles() {
    struct alignas(64) Configuration {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } configuration;
    asm volatile("ldtilecfg %0" : : "m"(configuration));
  }
  ~AmxTiles() { asm volatile("tilerelease" : :); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

  void zero() {
    FASTDIFF_TILE_ZERO(0);
    FASTDIFF_TILE_ZERO(1);
    FASTDIFF_TILE_ZERO(2);
    FASTDIFF_TILE_ZERO(3);
  }

  /// All loads come first, so that the products follow each other without waiting for memory.
  void step(const uint8_t* a0, const uint8_t* a1, int64_t stride, const uint8_t* b) {
    FASTDIFF_TILE_LOAD(4, b, kTileRowBytes);
    FASTDIFF_TILE_LOAD(5, b + kTileBytes, kTileRowBytes);
    FASTDIFF_TILE_LOAD(6, a0, stride);
    FASTDIFF_TILE_LOAD(7, a1, stride);
    if constexpr (std::is_same_v<Sum, float>) {
      FASTDIFF_TILE_PRODUCT(tdpbf16ps, 0, 6, 4);
      FASTDIFF_TILE_PRODUCT(tdpbf16ps, 1, 6, 5);
      FASTDIFF_TILE_PRODUCT(tdpbf16ps, 2, 7, 4);
      FASTDIFF_TILE_PRODUCT(tdpbf16ps, 3, 7, 5);
    } else {
      FASTDIFF_TILE_PRODUCT(tdpbusd, 0, 6, 4);
      FASTDIFF_TILE_PRODUCT(tdpbusd, 1, 6, 5);
      FASTDIFF_TILE_PRODUCT(tdpbusd, 2, 7, 4);
      FASTDIFF_TILE_PRODUCT(tdpbusd, 3, 7, 5);
    }
  }

  void store(Sum (&to)[2][kTileRows][kTilePanel]) const {
    constexpr int64_t kRowBytes = kTilePanel * sizeof(Sum);
    FASTDIFF_TILE_STORE(0, &to[0][0][0], kRowBytes);
    FASTDIFF_TILE_STORE(1, &to[0][0][16], kRowBytes);
    FASTDIFF_TILE_STORE(2, &to[1][0][0], kRowBytes);
    FASTDIFF_TILE_STORE(3, &to[1][0][16], kRowBytes);
  }
};

/// Linux lets a process use tile registers only after it has asked, which it must do before the
/// threads that use them start.
bool permitted() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}

bool supported() {
  unsigned eax, ebx, ecx, edx;  // not every compiler's __builtin_cpu_supports knows AMX
  constexpr unsigned kNeeded = 1u << 22 | 1u << 24 | 1u << 25;  // AMX-BF16, AMX-TILE, AMX-INT8
  return supports_avx512() && __builtin_cpu_supports("avx512bf16") &&
         __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & kNeeded) == kNeeded &&
         permitted();
}

}  // namespace

const Level kAmx = level_of<Avx512Bf16, AmxTiles<float>, AmxTiles<int32_t>>(
    "amx", "AMX-TILE, AMX-BF16 and AMX-INT8 beside AVX-512 BF16, or Linux denies them", supported);

}  // namespace fastdiff::network
