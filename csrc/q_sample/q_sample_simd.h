// The CPU kernel of q_sample.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"
#include "common/types.h"

namespace vdm {

// One sample.
struct QSample {
  const void* x;  // (n,) dtype
  void* z;        // (n,) dtype
  void* eps;      // (n,) dtype
  DType dtype;
  float alpha, sigma;
  int64_t seed, draw;
  bool stream;  // write around the caches
};

// Elements [begin, end); begin is a multiple of kChunk.
VDM_DECLARE_SIMD(q_sample, (const QSample& sample, int64_t begin, int64_t end))

}  // namespace vdm
