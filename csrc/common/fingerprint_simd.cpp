// Each lane is a chain of its own: v = state ^ data, state = v + low(v) high(v) + constant. The product is
// that of XXH3 (Collet 2019); the sum keeps what a zero half would lose of it, and the chain makes the order
// count. Eight bytes a lane and several vectors in flight: as fast as memory.
#include "common/fingerprint_simd.h"

#include "common/simd.h"

namespace vdm {
namespace VDM_ISA {

void mix_stripes(const FingerprintShare& share) {
  if (share.stripes == 0) return;
  constexpr int kVector = kLanes / 2, kCount = kFingerprintLanes / kVector;
  const uint64_t* in = reinterpret_cast<const uint64_t*>(share.data);
  const U64 constant = splat(uint64_t{0x9E3779B97F4A7C15});
  U64 chains[kCount];
  for (int i = 0; i < kCount; ++i) chains[i] = load(share.state + i * kVector);
  for (int64_t stripe = 0; stripe < share.stripes; ++stripe, in += kFingerprintLanes) {
    for (int i = 0; i < kCount; ++i) {
      const U64 v = chains[i] ^ load(in + i * kVector);
      chains[i] = mul_lo32(v, v >> 32) + (v + constant);
    }
  }
  for (int i = 0; i < kCount; ++i) {
    __builtin_memcpy(share.state + i * kVector, &chains[i], sizeof(U64));
  }
}

}  // namespace VDM_ISA
}  // namespace vdm
