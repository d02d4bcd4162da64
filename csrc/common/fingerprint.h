// A 64-bit fingerprint of memory, to notice that it has changed: two contents share one with a probability of
// about 2^-64. Not for adversaries. The same for every instruction set and number of threads.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "common/cpu_isa.h"

namespace vdm {

uint64_t fingerprint(const void* data, int64_t bytes);

constexpr int kFingerprintLanes = 32;
constexpr int64_t kFingerprintStripe = kFingerprintLanes * 8;  // bytes

// Consecutive stripes of one piece of the memory, and what they are to be mixed into.
struct FingerprintShare {
  const char* data;
  int64_t stripes;
  uint64_t* state;
};

// The same, made in shares by a caller with other work in between. Pieces are independent of each other;
// within one, the shares are mixed in their order.
class Fingerprint {
 public:
  Fingerprint(const void* data, int64_t bytes);

  int64_t pieces() const { return static_cast<int64_t>(states_.size()); }
  // Where a piece begins, in whole stripes; that of one after the last is where they end.
  int64_t first_stripe(int64_t piece) const;
  // Stripes [begin, end), or those of them that are of the first one's piece.
  FingerprintShare share(int64_t begin, int64_t end);
  // After all stripes of all pieces.
  uint64_t value();

 private:
  const char* data_;
  int64_t bytes_;
  std::vector<std::array<uint64_t, kFingerprintLanes>> states_;
};

VDM_DECLARE_SIMD(mix_stripes, (const FingerprintShare& share))

}  // namespace vdm
