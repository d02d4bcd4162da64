// The CPU kernel of channel_statistics: sums over a block of pixels.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"
#include "common/types.h"

namespace vdm {

// Of each channel in one block, about the mean of the block's first pixels: nothing is lost where mean >>
// std.
struct ShiftedSums {
  float* shift;
  float* sum;      // sum of x - shift
  float* squares;  // sum of (x - shift)^2
};

// Adds up pixels [begin, end) of one image, at least one. The sums have room for the last vector's lanes.
VDM_DECLARE_SIMD(sum_channels, (const void* x, DType dtype, int64_t channels, int64_t begin, int64_t end,
                                const ShiftedSums& sums))

}  // namespace vdm
