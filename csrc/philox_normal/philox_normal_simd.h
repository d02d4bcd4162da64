// The CPU kernel of philox_normal.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"
#include "common/types.h"

namespace vdm {

// One sample.
struct PhiloxNormalSample {
  void* out;  // (n,) dtype
  DType dtype;
  int64_t seed, draw;
  bool stream;  // write around the caches
};

// Elements [begin, end); begin is a multiple of kChunk.
VDM_DECLARE_SIMD(philox_normal, (const PhiloxNormalSample& sample, int64_t begin, int64_t end))

}  // namespace vdm
