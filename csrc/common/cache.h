// Sizes of the caches, for choosing non-temporal stores.
#pragma once

#include <unistd.h>

#include <cstdint>

namespace vdm {

// Whether a pass over `bytes` of memory cannot stay in the last-level cache, so that its output is better
// written around it: that spares reading each output line before it is overwritten.
inline bool exceeds_cache(int64_t bytes) {
#ifdef _SC_LEVEL3_CACHE_SIZE
  static const int64_t size = sysconf(_SC_LEVEL3_CACHE_SIZE);
#else
  static const int64_t size = 0;
#endif
  return bytes > (size > 0 ? size : int64_t{32} << 20);
}

}  // namespace vdm
