// SiLU and what it is made of, in place, of several vectors at once: each is one long chain of operations,
// and a processor finds what it can do meanwhile if every operation is done for all of them before the next.
#pragma once

#include "common/simd.h"

namespace vdm {
namespace VDM_ISA {

// e^a and e^-a are normal numbers for |a| up to this.
constexpr float kExpLimit = 87.0f;

// body(0) to body(kCount - 1).
template <int kCount, typename Body>
VDM_INLINE void each_of(const Body& body) {
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) body(i);
}

#if defined(VDM_ISA_AVX512)

// 2^(i / 32).
alignas(64) constexpr float kPowersOfTwo[32] = {
    1.0f,        1.0218972f,  1.04427373f, 1.06714046f, 1.09050775f, 1.1143868f,  1.13878858f, 1.1637249f,
    1.18920708f, 1.21524739f, 1.24185777f, 1.26905096f, 1.29683959f, 1.32523668f, 1.35425556f, 1.38390994f,
    1.41421354f, 1.44518077f, 1.47682619f, 1.50916445f, 1.54221082f, 1.5759809f,  1.61049032f, 1.64575553f,
    1.68179286f, 1.71861935f, 1.75625217f, 1.79470909f, 1.8340081f,  1.87416768f, 1.91520655f, 1.95714414f};

// e^-a within 2 ulp, for |a| <= kExpLimit; NaN stays NaN. -a = n ln 2 - r, where n is a multiple of 1/32, to
// which adding 1.5 2^18 rounds, and |r| <= ln 2 / 64. With 2^n from a table, degree 2 is enough: what
// multiplies is the limit here, and each degree is a multiplication more.
template <int kCount>
VDM_INLINE void exp_minus(F32 (&a)[kCount]) {
  const F32 shift = splat(0x1.8p18f);
  F32 shifted[kCount], n[kCount], r[kCount], power[kCount];
  each_of<kCount>([&](int i) VDM_LAMBDA { shifted[i] = fma(a[i], splat(-1.44269504f), shift); });
  each_of<kCount>([&](int i) VDM_LAMBDA { n[i] = shifted[i] - shift; });
  each_of<kCount>([&](int i) VDM_LAMBDA { r[i] = fma(n[i], splat(0.693359375f), a[i]); });
  each_of<kCount>([&](int i) VDM_LAMBDA { r[i] = fma(n[i], splat(-2.12194440e-4f), r[i]); });
  each_of<kCount>([&](int i) VDM_LAMBDA { power[i] = lookup(kPowersOfTwo, bits(shifted[i])); });
  each_of<kCount>([&](int i) VDM_LAMBDA { shifted[i] = fma(splat(0.5f), r[i], splat(-1.0000147f)); });
  each_of<kCount>([&](int i) VDM_LAMBDA { r[i] = shifted[i] * r[i]; });  // e^-r - 1
  each_of<kCount>([&](int i) VDM_LAMBDA { r[i] = fma(power[i], r[i], power[i]); });
  each_of<kCount>([&](int i) VDM_LAMBDA { a[i] = scale_exponent(r[i], n[i]); });
}

#else

// e^-a within 1 ulp (2 without FMA), for |a| <= kExpLimit; NaN stays NaN. -a = n ln 2 - r with |r| <= ln 2 /
// 2: adding 1.5 2^23 rounds to the integer n, and adding 127 besides leaves 2^n's exponent in the low bits.
// ln 2 is split so that n times the first part is exact. One vector after the other: 16 registers hold no
// more.
template <int kCount>
VDM_INLINE void exp_minus(F32 (&a)[kCount]) {
  const F32 shift = splat(0x1.8p23f + 127.0f);
  each_of<kCount>([&](int i) VDM_LAMBDA {
    const F32 shifted = fma(a[i], splat(-1.44269504f), shift);
    const F32 n = shifted - shift;
    const F32 r = fma(n, splat(-2.12194440e-4f), fma(n, splat(0.693359375f), a[i]));
    F32 p = fma(splat(1.38131448e-3f), r, splat(-8.36941879e-3f));
    p = fma(p, r, splat(4.16684560e-2f));
    p = fma(p, r, splat(-1.66665152e-1f));
    p = fma(p, r, splat(4.99999940e-1f));
    p = fma(p, r, splat(-1.0f));
    p = fma(p, r, splat(1.0f));
    a[i] = p * as_float(bits(shifted) << 23);
  });
}

#endif

// a sigmoid(a); below -kExpLimit as there, where it is -1e-36.
template <int kCount>
VDM_INLINE void silu(F32 (&a)[kCount]) {
  F32 e[kCount];
  each_of<kCount>([&](int i) VDM_LAMBDA { a[i] = max(splat(-kExpLimit), a[i]); });
  each_of<kCount>([&](int i) VDM_LAMBDA { e[i] = min(splat(kExpLimit), a[i]); });
  exp_minus(e);
  each_of<kCount>([&](int i) VDM_LAMBDA { e[i] = splat(1.0f) + e[i]; });
  each_of<kCount>([&](int i) VDM_LAMBDA { a[i] = a[i] / e[i]; });
}

// The derivative of SiLU, sigmoid(a) (1 + a (1 - sigmoid(a))), without cancellation: with e = e^-a and s = 1
// / (1 + e), 1 - s is s e.
template <int kCount>
VDM_INLINE void silu_derivative(F32 (&a)[kCount]) {
  F32 e[kCount], s[kCount];
  each_of<kCount>([&](int i) VDM_LAMBDA { e[i] = a[i] = clip(a[i], splat(kExpLimit)); });
  exp_minus(e);
  each_of<kCount>([&](int i) VDM_LAMBDA { s[i] = splat(1.0f) + e[i]; });
  each_of<kCount>([&](int i) VDM_LAMBDA { s[i] = splat(1.0f) / s[i]; });
  each_of<kCount>([&](int i) VDM_LAMBDA { a[i] = a[i] * s[i]; });
  each_of<kCount>([&](int i) VDM_LAMBDA { a[i] = fma(a[i], e[i], splat(1.0f)); });
  each_of<kCount>([&](int i) VDM_LAMBDA { a[i] = a[i] * s[i]; });
}

// The same of one vector.
VDM_INLINE F32 exp_minus(F32 a) {
  F32 e[] = {a};
  exp_minus(e);
  return e[0];
}
VDM_INLINE F32 silu(F32 a) {
  F32 y[] = {a};
  silu(y);
  return y[0];
}

}  // namespace VDM_ISA
}  // namespace vdm
