// philox.h in vectors: the normals of 4 kLanes consecutive elements at a time.
//
// Philox needs 32x32 -> 64 bit products, which x86 has in 64-bit lanes (vpmuludq, reading the low halves). So
// the counters live in the low halves of two U64 vectors from the first to the last round: the high half of a
// product is one shift, the low half is free (the next product ignores the rest), and nothing is repacked
// until the end. A round of kLanes groups is then 4 multiplications, 4 shifts and 4 three-way xors.
//
// Counter words 1 to 3 are the same for all groups, which makes half of the first two rounds scalar.
#pragma once

#include "common/philox.h"
#include "common/simd.h"

namespace vdm {
namespace VDM_ISA {

constexpr int kNormals = 4 * kLanes;  // per NormalGenerator::next

// The radius: sqrt(-2 ln u(r)), as normal_radius in philox.h.
VDM_INLINE F32 normal_radius(U32 r) {
  const F32 u = fma(to_float_unsigned(r), splat(0x1p-32f), splat(0x1p-33f));
  const U32 scaled = bits(u) - splat(kBitsOfTwoThirds);
  const U32 k = shift_right_signed(scaled, 23);
  const F32 f = as_float(bits(u) - (scaled & splat(0xFF800000u))) - splat(1.0f);
  F32 p = fma(splat(kLogP7), f, splat(kLogP6));
  p = fma(p, f, splat(kLogP5));
  p = fma(p, f, splat(kLogP4));
  p = fma(p, f, splat(kLogP3));
  p = fma(p, f, splat(kLogP2));
  p = fma(p, f, splat(kLogP1));
  p = fma(p, f, splat(kLogP0));
  return sqrt(fma(f, p, to_float_signed(k) * splat(kMinus2Ln2)));
}

// radius * (cos, sin)(angle turn), as cos_sin_turn in philox.h.
VDM_INLINE void box_muller(U32 radius_bits, U32 angle_bits, F32& n0, F32& n1) {
  const F32 radius = normal_radius(radius_bits);
  const U32 t = angle_bits + splat(0x20000000u);
  const F32 x = to_float_signed(angle_bits << 2) * splat(0.25f * kQuarterTurn);
  const F32 x2 = x * x;
  const F32 s = fma(fma(fma(splat(kSin2), x2, splat(kSin1)), x2, splat(kSin0)), x2 * x, x);
  const F32 c = fma(fma(fma(splat(kCos2), x2, splat(kCos1)), x2, splat(kCos0)), x2, splat(1.0f));
  n0 = radius * flip_sign(select_bit<30>(t, s, c), t + splat(0x40000000u));
  n1 = radius * flip_sign(select_bit<30>(t, c, s), t);
}

// Counters and outputs of kLanes / 2 groups, in the low halves of 64-bit lanes.
struct PhiloxLanes {
  U64 x0, x1, x2, x3;
};

class NormalGenerator {
 public:
  // Starts at element 4 first_group. The low 32 bits of the group counter must not wrap before the last call.
  VDM_MEMBER NormalGenerator(int64_t seed, int64_t draw, int64_t first_group) {
    const uint64_t s = static_cast<uint64_t>(seed), d = static_cast<uint64_t>(draw);
    const uint64_t group = static_cast<uint64_t>(first_group);
    uint32_t key0[kPhiloxRounds], key1[kPhiloxRounds];
    for (uint32_t round = 0; round < kPhiloxRounds; ++round) {
      key0[round] = static_cast<uint32_t>(s) + round * kPhiloxW0;
      key1[round] = static_cast<uint32_t>(s >> 32) + round * kPhiloxW1;
      key_[round][0] = splat(uint64_t{key0[round]});
      key_[round][1] = splat(uint64_t{key1[round]});
    }
    // Round 0: words 0 and 1 of its result are constant. Round 1: they meet constants again.
    const uint64_t product1 = uint64_t{kPhiloxM1} * static_cast<uint32_t>(d);
    const uint32_t word0 =
        static_cast<uint32_t>(product1 >> 32) ^ static_cast<uint32_t>(group >> 32) ^ key0[0];
    const uint64_t product0 = uint64_t{kPhiloxM0} * word0;
    round0_word2_ = splat(uint64_t{static_cast<uint32_t>(d >> 32) ^ key1[0]});
    round1_word0_ = splat(uint64_t{static_cast<uint32_t>(product1) ^ key0[1]});
    round1_word2_ = splat(uint64_t{static_cast<uint32_t>(product0 >> 32) ^ key1[1]});
    // word 3 after round 1 enters round 2 as w3 ^ key1.
    round2_word2_ = splat(uint64_t{static_cast<uint32_t>(product0) ^ key1[2]});
    // Lane p of the zipped result (128-bit lane p / 4, position p % 4) belongs to output vector p % 4 after
    // interleave4, where 128-bit lane p / 4 holds group (p % 4) kLanes / 4 + p / 4.
    uint64_t even[kLanes / 2], odd[kLanes / 2];
    for (int lane = 0; lane < kLanes / 2; ++lane) {
      even[lane] = kPhiloxM0 * (uint64_t{static_cast<uint32_t>(group)} + group_of_lane(2 * lane));
      odd[lane] = kPhiloxM0 * (uint64_t{static_cast<uint32_t>(group)} + group_of_lane(2 * lane + 1));
    }
    product_even_ = load(even);
    product_odd_ = load(odd);
  }

  // The next kNormals elements: n[0] the first kLanes, n[1] the following, ...
  VDM_MEMBER void next(F32 n[4]) {
    const PhiloxLanes even = rounds(product_even_), odd = rounds(product_odd_);
    const U64 step = splat(uint64_t{kPhiloxM0} * kLanes);  // the counter times M0, advanced by kLanes groups
    product_even_ = product_even_ + step;
    product_odd_ = product_odd_ + step;
    box_muller(zip_lo32(even.x0, odd.x0), zip_lo32(even.x1, odd.x1), n[0], n[1]);
    box_muller(zip_lo32(even.x2, odd.x2), zip_lo32(even.x3, odd.x3), n[2], n[3]);
    interleave4(n[0], n[1], n[2], n[3]);
  }

 private:
  static constexpr uint64_t group_of_lane(int lane) { return lane % 4 * (kLanes / 4) + lane / 4; }

  // product0 = M0 * (low word of the group counter).
  VDM_MEMBER PhiloxLanes rounds(U64 product0) const {
    const U64 m0 = splat(uint64_t{kPhiloxM0}), m1 = splat(uint64_t{kPhiloxM1});
    // Round 0: word 2 and word 3 (product0 itself).
    U64 product1 = mul_lo32(m1, (product0 >> 32) ^ round0_word2_);
    // Round 1: words 0 and 1 (product1), word 2.
    PhiloxLanes x;
    x.x0 = (product1 >> 32) ^ round1_word0_;
    x.x1 = product1;
    x.x2 = product0 ^ round1_word2_;
    // Round 2: word 3 is constant.
    product0 = mul_lo32(m0, x.x0);
    product1 = mul_lo32(m1, x.x2);
    x = {xor3(product1 >> 32, x.x1, key_[2][0]), product1, (product0 >> 32) ^ round2_word2_, product0};
    for (int round = 3; round < kPhiloxRounds; ++round) {
      product0 = mul_lo32(m0, x.x0);
      product1 = mul_lo32(m1, x.x2);
      x = {xor3(product1 >> 32, x.x1, key_[round][0]), product1, xor3(product0 >> 32, x.x3, key_[round][1]),
           product0};
    }
    return x;
  }

  U64 key_[kPhiloxRounds][2];
  U64 round0_word2_, round1_word0_, round1_word2_, round2_word2_;
  U64 product_even_, product_odd_;
};

}  // namespace VDM_ISA
}  // namespace vdm
