// A 64-bit fingerprint of memory, to notice that it has changed: two contents share one with a probability of
// about 2^-64. Not for adversaries. The same for every instruction set and number of threads.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "common/fingerprint_simd.h"

namespace vdm {

uint64_t fingerprint(const void* data, int64_t bytes);

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

}  // namespace vdm
