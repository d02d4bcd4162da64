// The two CPU kernels of abs_quantile. Magnitudes are ranked by the bit patterns of |x| as float32, which as
// integers below 2^31 are in the same order.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"
#include "common/types.h"

namespace vdm {

constexpr int kMagnitudeBits = 31;
constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;

// Magnitudes in [low, high].
struct MagnitudeRange {
  uint32_t low, high;
};

// Elements [begin, end) of one sample.
struct MagnitudeSlice {
  const void* x;
  DType dtype;
  int64_t begin, end;
};

// Adds to counts[i] the number of magnitudes with (magnitude - low) >> shift = i, for i < kBins; others
// (smaller ones too) are not counted.
VDM_DECLARE_SIMD(count_magnitudes, (const MagnitudeSlice& slice, uint32_t low, int shift, int64_t* counts))

constexpr uint32_t kNoMagnitude = 1u << kMagnitudeBits;  // above all of them

// Writes the magnitudes within range (none where low > high) to `found`, and lowers *next to the smallest one
// above range.high.
VDM_DECLARE_SIMD(gather_magnitudes,
                 (const MagnitudeSlice& slice, MagnitudeRange range, uint32_t* found, uint32_t* next))

}  // namespace vdm
