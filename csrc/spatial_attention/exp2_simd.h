// Powers of two for a softmax that runs beside products: with AVX-512 from a table, so that they take half of
// the multiplications.
#pragma once

#include "common/activation_simd.h"

namespace vdm {
namespace VDM_ISA {
namespace {

#if defined(VDM_ISA_AVX512)
struct Exp2 {
  float least[kLanes], shift[kLanes], first[kLanes], second[kLanes];
};
#  define VDM_LANES(x) {x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}
alignas(64) constexpr Exp2 kExp2 = {VDM_LANES(-126.0f), VDM_LANES(0x1.8p18f), VDM_LANES(6.93157330e-1f),
                                    VDM_LANES(2.40226500e-1f)};
#  undef VDM_LANES

// 2^a within 2 ulp, for -126 <= a <= 126, and 2^-126 below; NaN stays NaN. a = n + r, where n is a multiple
// of 1/32, to which adding 1.5 2^18 rounds, and |r| <= 1/64. Constants are operands in memory, which the
// compiler is kept from moving to registers: those hold a tile of a product meanwhile.
VDM_INLINE F32 exp2(F32 a) {
  const Exp2* constants = &kExp2;
  const float (*powers)[32] = &kPowersOfTwo;
  asm("" : "+r"(constants), "+r"(powers));
  a = max(load(constants->least), a);
  const F32 shifted = a + load(constants->shift);
  const F32 n = shifted - load(constants->shift), r = a - n;
  const F32 power = lookup(*powers, bits(shifted));
  return scale_exponent(fma(power * r, fma(load(constants->second), r, load(constants->first)), power), n);
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
