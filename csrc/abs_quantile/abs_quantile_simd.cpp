#include "abs_quantile/abs_quantile_simd.h"

#include "common/block_simd.h"

namespace vdm {
namespace VDM_ISA {

// Neighbouring pixels often fall into the same bin; four tables keep their increments from waiting for each
// other.
constexpr int kTables = 4;
constexpr int64_t kMaxCount = int64_t{1} << 30;  // what a 32-bit counter surely holds
using Tables = uint32_t[kTables][kBins];

// The top digit has no range to check, and two of them fit in a load.
VDM_INLINE void count_first_digit(const float* x, int count, Tables& tables) {
  constexpr int shift = kMagnitudeBits - kDigitBits;
  int k = 0;
  for (; k + 4 <= count; k += 4) {
    uint64_t pair[2];
    __builtin_memcpy(pair, x + k, sizeof pair);
    ++tables[0][pair[0] >> shift & (kBins - 1)];
    ++tables[1][pair[0] >> (32 + shift) & (kBins - 1)];
    ++tables[2][pair[1] >> shift & (kBins - 1)];
    ++tables[3][pair[1] >> (32 + shift) & (kBins - 1)];
  }
  for (; k < count; ++k) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + k, sizeof bits);
    ++tables[0][bits >> shift & (kBins - 1)];
  }
}

VDM_INLINE void count_digit(const float* x, int count, uint32_t low, int shift, Tables& tables) {
  for (int k = 0; k < count; ++k) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + k, sizeof bits);
    const uint32_t bin = ((bits & 0x7FFFFFFFu) - low) >> shift;
    if (bin < kBins) ++tables[k % kTables][bin];
  }
}

void count_magnitudes(const MagnitudeSlice& slice, uint32_t low, int shift, int64_t* counts) {
  Tables tables;
  BlockReader blocks(slice.x, slice.dtype);
  for (int64_t begin = slice.begin; begin < slice.end; begin += kMaxCount) {
    const int64_t end = slice.end - begin < kMaxCount ? slice.end : begin + kMaxCount;
    __builtin_memset(tables, 0, sizeof tables);
    for (int64_t i = begin; i < end; i += kBlock) {
      const int count = block_size(i, end);
      const float* x = blocks.read(i, count);
      if (shift == kMagnitudeBits - kDigitBits) {
        count_first_digit(x, count, tables);
      } else {
        count_digit(x, count, low, shift, tables);
      }
    }
    for (int bin = 0; bin < kBins; ++bin)
      for (int table = 0; table < kTables; ++table) counts[bin] += tables[table][bin];
  }
}

void gather_magnitudes(const MagnitudeSlice& slice, MagnitudeRange range, uint32_t* found, uint32_t* next) {
  BlockReader blocks(slice.x, slice.dtype);
  const U32 low = splat(range.low), high = splat(range.high), magnitude_mask = splat(0x7FFFFFFFu);
  U32 smallest_above = splat(*next);
  for (int64_t i = slice.begin; i < slice.end; i += kBlock) {
    const int count = block_size(i, slice.end);
    const float* x = blocks.read(i, count);
    for (int k = 0; k < count; k += kLanes) {
      const U32 magnitude = bits(load(x + k)) & magnitude_mask;
      uint32_t within = lanes_within(magnitude, low, high);
      // The padding after a sample's last element is 0: never above the range, and not an element.
      if (count - k < kLanes) within &= (1u << (count - k)) - 1;
      smallest_above = min_above(magnitude, high, smallest_above);
      if (within == 0) continue;
      uint32_t lanes[kLanes];
      store(lanes, magnitude);
      for (; within != 0; within &= within - 1) *found++ = lanes[__builtin_ctz(within)];
    }
  }
  uint32_t lanes[kLanes];
  store(lanes, smallest_above);
  for (uint32_t lane : lanes) *next = lane < *next ? lane : *next;
}

}  // namespace VDM_ISA
}  // namespace vdm
