// Two vectors that advance together, so that the latency of one's arithmetic hides behind the other's: a
// processor's scheduler is too small to look past the end of a long dependent chain. A single vector stands
// for two equal ones.
#pragma once

#include "common/simd.h"

namespace vdm {
namespace VDM_ISA {

struct F32x2 {
  VDM_MEMBER F32x2(F32 first, F32 second) : a(first), b(second) {}
  VDM_MEMBER F32x2(F32 both) : a(both), b(both) {}
  F32 a, b;
};

struct U32x2 {
  VDM_MEMBER U32x2(U32 first, U32 second) : a(first), b(second) {}
  VDM_MEMBER U32x2(U32 both) : a(both), b(both) {}
  U32 a, b;
};

VDM_INLINE F32x2 operator*(F32x2 x, F32x2 y) { return {x.a * y.a, x.b * y.b}; }
VDM_INLINE F32x2 fma(F32x2 x, F32x2 y, F32x2 z) { return {fma(x.a, y.a, z.a), fma(x.b, y.b, z.b)}; }
VDM_INLINE F32x2 sqrt(F32x2 x) { return {sqrt(x.a), sqrt(x.b)}; }
VDM_INLINE void split_exponent(F32x2 x, F32x2& k, F32x2& f) {
  split_exponent(x.a, k.a, f.a);
  split_exponent(x.b, k.b, f.b);
}

VDM_INLINE U32x2 operator+(U32x2 x, U32x2 y) { return {x.a + y.a, x.b + y.b}; }
VDM_INLINE U32x2 operator<<(U32x2 x, int n) { return {x.a << n, x.b << n}; }
VDM_INLINE F32x2 to_float_signed(U32x2 x) { return {to_float_signed(x.a), to_float_signed(x.b)}; }
VDM_INLINE F32x2 to_float_unsigned(U32x2 x) { return {to_float_unsigned(x.a), to_float_unsigned(x.b)}; }

template <int bit>
VDM_INLINE F32x2 select_bit(U32x2 t, F32x2 if_set, F32x2 if_clear) {
  return {select_bit<bit>(t.a, if_set.a, if_clear.a), select_bit<bit>(t.b, if_set.b, if_clear.b)};
}
VDM_INLINE F32x2 flip_sign(F32x2 x, U32x2 s) { return {flip_sign(x.a, s.a), flip_sign(x.b, s.b)}; }

}  // namespace VDM_ISA
}  // namespace vdm
