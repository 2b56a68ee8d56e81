// The list of the instruction levels that this build contains.
#include <vector>

#include "plan.h"

namespace fastdiff::network {

const std::vector<const Level*>& levels() {
  static const std::vector<const Level*> all = {
      &kPortable,
#if defined(__x86_64__)
      &kAvx2,       &kAvx512,
#ifdef FASTDIFF_TILES
      &kAvx512Bf16, &kAmx,
#endif
#endif
  };
  return all;
}

}  // namespace fastdiff::network
