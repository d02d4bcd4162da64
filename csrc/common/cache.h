// Sizes of the caches, for choosing non-temporal stores.
#pragma once

#include <cstdint>

namespace vdm {

// Bytes of the last-level cache that a core reaches; 32 MB where that is not known.
int64_t last_level_cache();

// Whether a pass over `bytes` of memory cannot stay in the last-level cache, so that its output is better
// written around it: that spares reading each output line before it is overwritten.
inline bool exceeds_cache(int64_t bytes) { return bytes > last_level_cache(); }

}  // namespace vdm
