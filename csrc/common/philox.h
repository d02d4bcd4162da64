// Standard normals from a counter: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as
// 1, 2, 3") and the Box-Muller transform.
//
// Element i of a sample (in its contiguous (C, F, H, W) order) is one of the four normals of group i / 4:
//
//     r0..r3 = Philox4x32-10(counter = (lo(i / 4), hi(i / 4), lo(draw), hi(draw)), key = (lo(seed),
//     hi(seed))) normals = { radius(r0) cos(turn r1), radius(r0) sin(turn r1), radius(r2) cos(turn r3),
//     radius(r2) sin(turn r3) } radius(r) = sqrt(-2 ln u(r)),  u(r) = float(r) 2^-32 + 2^-33 in (0, 1],  turn
//     = 2 pi / 2^32
//
// so a value depends on (seed, draw, i) alone: not on batch size, position, thread or device.
//
// These are the scalar functions, for host and device; philox_simd.h computes the same values in vectors,
// from the same polynomials. |error| against exact arithmetic is below 1e-6, at |normal| <= 6.8.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace vdm {

constexpr uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;  // multipliers
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;  // key increments
constexpr int kPhiloxRounds = 10;

// -2 ln(2^k m) = k (-2 ln 2) + f P(f), f = m - 1, m in [3/4, 3/2). P(f) = -2 + f Q(f), minimax for the
// radius.
constexpr float kLogP0 = -2.0f, kLogP1 = 1.0000079870224f, kLogP2 = -0.6665958762168884f,
                kLogP3 = 0.49941542744636536f, kLogP4 = -0.4021699130535126f, kLogP5 = 0.34856584668159485f,
                kLogP6 = -0.2835433781147003f, kLogP7 = 0.13197952508926392f;
constexpr float kMinus2Ln2 = -1.3862943611198906f;
constexpr uint32_t kBitsOfThreeQuarters = 0x3F400000u;

// sin x = x + x^3 S(x^2), cos x = 1 + x^2 C(x^2) for |x| <= pi / 4, minimax.
constexpr float kSin0 = -0.16666650772094727f, kSin1 = 0.00833197869360447f, kSin2 = -0.000194956359337084f;
constexpr float kCos0 = -0.49999895691871643f, kCos1 = 0.04165629297494888f, kCos2 = -0.0013597822980955243f;
constexpr float kQuarterTurn = 1.4629180792671596e-09f;  // 2 pi / 2^32

struct Philox4 {
  uint32_t r0, r1, r2, r3;
};

VDM_HOST_DEVICE inline uint32_t mul_hi(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
  return __umulhi(a, b);
#else
  return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32);
#endif
}

VDM_HOST_DEVICE inline Philox4 philox4x32_10(Philox4 counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint32_t hi0 = mul_hi(kPhiloxM0, counter.r0), lo0 = kPhiloxM0 * counter.r0;
    const uint32_t hi1 = mul_hi(kPhiloxM1, counter.r2), lo1 = kPhiloxM1 * counter.r2;
    counter = {hi1 ^ counter.r1 ^ key0, lo1, hi0 ^ counter.r3 ^ key1, lo0};
    key0 += kPhiloxW0;
    key1 += kPhiloxW1;
  }
  return counter;
}

// The random bits of elements 4 group .. 4 group + 3 of one sample.
VDM_HOST_DEVICE inline Philox4 philox_group(int64_t seed, int64_t draw, int64_t group) {
  const uint64_t s = static_cast<uint64_t>(seed), d = static_cast<uint64_t>(draw),
                 g = static_cast<uint64_t>(group);
  return philox4x32_10({static_cast<uint32_t>(g), static_cast<uint32_t>(g >> 32), static_cast<uint32_t>(d),
                        static_cast<uint32_t>(d >> 32)},
                       static_cast<uint32_t>(s), static_cast<uint32_t>(s >> 32));
}

VDM_HOST_DEVICE inline uint32_t float_bits(float x) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(x);
#else
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
#endif
}

VDM_HOST_DEVICE inline float float_from_bits(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
#endif
}

// The square root; on a GPU to one ulp (2^-23 relative), which the IEEE one costs four times as much to
// better.
VDM_HOST_DEVICE inline float approximate_sqrt(float x) {
#ifdef __CUDA_ARCH__
  float root;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
#else
  return sqrtf(x);
#endif
}

// sqrt(-2 ln u(r)). float(r) rounds to nearest even; scaling and offset are one rounding.
VDM_HOST_DEVICE inline float normal_radius(uint32_t r) {
  const float u = fmaf(static_cast<float>(r), 0x1p-32f, 0x1p-33f);
  const uint32_t bits = float_bits(u);
  const int32_t k = static_cast<int32_t>(bits - kBitsOfThreeQuarters) >> 23;
  const float f = float_from_bits(bits - (static_cast<uint32_t>(k) << 23)) - 1.0f;
  float p = fmaf(kLogP7, f, kLogP6);
  p = fmaf(p, f, kLogP5);
  p = fmaf(p, f, kLogP4);
  p = fmaf(p, f, kLogP3);
  p = fmaf(p, f, kLogP2);
  p = fmaf(p, f, kLogP1);
  p = fmaf(p, f, kLogP0);
  return approximate_sqrt(fmaf(f, p, static_cast<float>(k) * kMinus2Ln2));
}

// cosine and sine of the angle r turn. The quadrant is split off in integers, so no precision is lost to pi:
// int32(r << 2) is four times the signed distance to the nearest multiple of a quarter turn.
VDM_HOST_DEVICE inline void cos_sin_turn(uint32_t r, float* cosine, float* sine) {
  const uint32_t t = r + 0x20000000u;  // bits 31:30 = quadrant
  const float x = static_cast<float>(static_cast<int32_t>(r << 2)) * (0.25f * kQuarterTurn);
  const float x2 = x * x;
  const float s = fmaf(fmaf(fmaf(kSin2, x2, kSin1), x2, kSin0), x2 * x, x);
  const float c = fmaf(fmaf(fmaf(kCos2, x2, kCos1), x2, kCos0), x2, 1.0f);
  const bool odd = t & 0x40000000u;  // quadrants 1 and 3 swap sine and cosine
  *cosine = float_from_bits(float_bits(odd ? s : c) ^ ((t + 0x40000000u) & 0x80000000u));
  *sine = float_from_bits(float_bits(odd ? c : s) ^ (t & 0x80000000u));
}

// The four normals of a group.
VDM_HOST_DEVICE inline void normals_from_bits(const Philox4& bits, float normals[4]) {
  const float radius0 = normal_radius(bits.r0), radius1 = normal_radius(bits.r2);
  float c, s;
  cos_sin_turn(bits.r1, &c, &s);
  normals[0] = radius0 * c;
  normals[1] = radius0 * s;
  cos_sin_turn(bits.r3, &c, &s);
  normals[2] = radius1 * c;
  normals[3] = radius1 * s;
}

}  // namespace vdm
