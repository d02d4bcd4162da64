// A 64-bit fingerprint of memory, to notice that it has changed: two contents share one with a probability of
// about 2^-64. Not for adversaries. The same for every instruction set and number of threads.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"

namespace vdm {

uint64_t fingerprint(const void* data, int64_t bytes);

constexpr int kFingerprintLanes = 32;
constexpr int64_t kFingerprintStripe = kFingerprintLanes * 8;  // bytes

// Mixes whole stripes into the state.
VDM_DECLARE_SIMD(mix_stripes, (const void* data, int64_t stripes, uint64_t* state))

}  // namespace vdm
