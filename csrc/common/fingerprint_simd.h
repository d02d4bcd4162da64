// The CPU kernel of fingerprint.h.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"

namespace vdm {

constexpr int kFingerprintLanes = 32;
constexpr int64_t kFingerprintStripe = kFingerprintLanes * 8;  // bytes

// Consecutive stripes of one piece of the memory, and what they are to be mixed into.
struct FingerprintShare {
  const char* data;
  int64_t stripes;
  uint64_t* state;
};

VDM_DECLARE_SIMD(mix_stripes, (const FingerprintShare& share))

}  // namespace vdm
