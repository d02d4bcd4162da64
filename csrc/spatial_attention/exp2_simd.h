// Powers of two for a softmax that runs beside products: with AVX-512 from a table, so that they take half of
// the multiplications.
#pragma once

#include "common/simd.h"

namespace vdm {
namespace VDM_ISA {
namespace {

#if defined(VDM_ISA_AVX512)
struct Exp2 {
  float least[kLanes], shift[kLanes], first[kLanes], second[kLanes];
  // The bits of 2^(j / 32) less those of 1 + j / 32: they are added to a sum that has j right below 2^n's
  // exponent.
  uint32_t table[2 * kLanes];
};
#  define VDM_LANES(x) {x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}
alignas(64) constexpr Exp2 kExp2 = {
    VDM_LANES(-126.0f),
    VDM_LANES(0x1.8p18f + 127.0f),
    VDM_LANES(6.93157330e-1f),
    VDM_LANES(2.40226500e-1f),
    {
        0x00000000, 0xFFFECD87, 0xFFFDAAC3, 0xFFFC980F, 0xFFFB95C2, 0xFFFAA43A, 0xFFF9C3D3, 0xFFF8F4F0,
        0xFFF837F0, 0xFFF78D3A, 0xFFF6F532, 0xFFF67043, 0xFFF5FED7, 0xFFF5A15B, 0xFFF5583F, 0xFFF523F6,
        0xFFF504F3, 0xFFF4FBAF, 0xFFF508A4, 0xFFF52C4D, 0xFFF5672A, 0xFFF5B9BE, 0xFFF6248C, 0xFFF6A81E,
        0xFFF744FD, 0xFFF7FBB8, 0xFFF8CCDF, 0xFFF9B907, 0xFFFAC0C7, 0xFFFBE4BA, 0xFFFD257D, 0xFFFE83B3,
    }};
#  undef VDM_LANES

// 2^a within 2 ulp, for -126 <= a <= 126, and 2^-126 below; NaN stays NaN. a = n + j / 32 + r with |r| <=
// 1/64: adding 1.5 2^18 rounds to a multiple of 1/32, and adding 127 besides leaves 2^n's exponent and j in
// the low bits. Constants are operands in memory, which the compiler is kept from moving to registers: those
// hold a tile of a product meanwhile.
VDM_INLINE F32 exp2(F32 a) {
  const Exp2* constants = &kExp2;
  asm("" : "+r"(constants));
  a = max(load(constants->least), a);
  const F32 shifted = a + load(constants->shift);
  const F32 r = a - (shifted - load(constants->shift));
  const F32 power = as_float(lookup32(constants->table, bits(shifted)) + (bits(shifted) << 18));
  return fma(power * r, fma(load(constants->second), r, load(constants->first)), power);
}
#else
// 2^a within 1 ulp (2 without FMA), for -126 <= a <= 126, and 2^-126 below; NaN stays NaN. a = n + r with
// |r| <= 1/2: adding 1.5 2^23 rounds to the integer n, and adding 127 besides leaves 2^n's exponent in the
// low bits.
VDM_INLINE F32 exp2(F32 a) {
  const F32 shift = splat(0x1.8p23f + 127.0f);
  a = max(splat(-126.0f), a);
  const F32 shifted = a + shift;
  const F32 r = a - (shifted - shift);
  F32 p = fma(splat(1.53458124e-4f), r, splat(1.33999309e-3f));
  p = fma(p, r, splat(9.61848907e-3f));
  p = fma(p, r, splat(5.55032864e-2f));
  p = fma(p, r, splat(2.40226462e-1f));
  p = fma(p, r, splat(6.93147182e-1f));
  p = fma(p, r, splat(1.0f));
  return p * as_float(bits(shifted) << 23);
}
#endif

}  // namespace
}  // namespace VDM_ISA
}  // namespace vdm
