// philox.h in vectors: the normals of kStep consecutive elements at a time.
//
// Philox needs 32x32 -> 64 bit products, which x86 has in 64-bit lanes (vpmuludq, reading the low halves). So
// the counters live in the low halves of U64 vectors from the first to the last round: the high half of a
// product is one shift, the low half is free (the next product ignores the rest), and nothing is repacked
// until the last round. A round of kLanes / 2 groups is then 2 multiplications, 2 shifts and 2 three-way
// xors. Counter words 1 to 3 are the same for all groups, which makes half of the first two rounds scalar.
//
// What bounds the speed is how much independent arithmetic the scheduler sees, so four vectors of counters
// advance together, and the normals are made from pairs: 64 elements take 122 cycles with AVX-512 on Zen 4,
// where the 205 instructions, of 2 cycles on one of 4 pipes, could take 101. One after the other it was 155.
#pragma once

#include "common/philox.h"
#include "common/simd.h"
#include "common/simd_pair.h"

namespace vdm {
namespace VDM_ISA {

constexpr int kStreams = kVectors / 2;  // U64 vectors of counters that advance together

// sqrt(-2 ln u(r)), as normal_radius in philox.h.
VDM_INLINE F32x2 normal_radius(U32x2 r) {
  F32x2 k = splat(0.0f), f = k;
  split_exponent(fma(to_float_unsigned(r), splat(0x1p-32f), splat(0x1p-33f)), k, f);
  F32x2 p = fma(splat(kLogP7), f, splat(kLogP6));
  p = fma(p, f, splat(kLogP5));
  p = fma(p, f, splat(kLogP4));
  p = fma(p, f, splat(kLogP3));
  p = fma(p, f, splat(kLogP2));
  p = fma(p, f, splat(kLogP1));
  p = fma(p, f, splat(kLogP0));
  return sqrt(fma(f, p, k * splat(kMinus2Ln2)));
}

// The cosine and sine of the angle r turn, as cos_sin_turn in philox.h.
VDM_INLINE void cos_sin_turn(U32x2 r, F32x2& cosine, F32x2& sine) {
  const F32x2 x = to_float_signed(r << 2) * splat(0.25f * kQuarterTurn);
  const F32x2 x2 = x * x;
  const F32x2 s = fma(fma(fma(splat(kSin2), x2, splat(kSin1)), x2, splat(kSin0)), x2 * x, x);
  const F32x2 c = fma(fma(fma(splat(kCos2), x2, splat(kCos1)), x2, splat(kCos0)), x2, splat(1.0f));
  const U32x2 t = r + splat(0x20000000u);  // bits 31:30 = quadrant
  cosine = flip_sign(select_bit<30>(t, s, c), t + splat(0x40000000u));
  sine = flip_sign(select_bit<30>(t, c, s), t);
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
    last_key_[0] = splat(key0[kPhiloxRounds - 1]);
    last_key_[1] = splat(key1[kPhiloxRounds - 1]);
    // Words 0 and 1 are constant after round 0, word 3 after round 1; the other constants are folded into the
    // keys.
    const uint64_t product1 = uint64_t{kPhiloxM1} * static_cast<uint32_t>(d);
    const uint32_t word0 =
        static_cast<uint32_t>(product1 >> 32) ^ static_cast<uint32_t>(group >> 32) ^ key0[0];
    const uint64_t product0 = uint64_t{kPhiloxM0} * word0;
    round0_word2_ = splat(uint64_t{static_cast<uint32_t>(d >> 32) ^ key1[0]});
    round1_word0_ = splat(uint64_t{static_cast<uint32_t>(product1) ^ key0[1]});
    round1_word2_ = splat(uint64_t{static_cast<uint32_t>(product0 >> 32) ^ key1[1]});
    round1_word3_ = splat(product0);
    // Streams 2i and 2i + 1 hold kLanes groups and are zipped in the end. interleave4 moves position j of
    // 128-bit lane l to lane l of output vector j, so that this position holds group j kLanes / 4 + l.
    for (int stream = 0; stream < kStreams; ++stream) {
      uint64_t products[kLanes / 2];
      for (int i = 0; i < kLanes / 2; ++i) {
        const int zipped = 2 * i + stream % 2, j = zipped % 4, l = zipped / 4;
        const int offset = stream / 2 * kLanes + j * (kLanes / 4) + l;
        products[i] = uint64_t{kPhiloxM0} * (static_cast<uint32_t>(group) + static_cast<uint32_t>(offset));
      }
      product0_[stream] = load(products);
    }
  }

  // The next kStep elements: n[0] the first kLanes, n[1] the following, ...
  VDM_MEMBER void next(F32 n[kVectors]) {
    PhiloxLanes x[kStreams];
    const U64 step = splat(uint64_t{kPhiloxM0} * (kStep / 4));
#pragma GCC unroll 4
    for (int stream = 0; stream < kStreams; ++stream) {
      x[stream] = first_rounds(product0_[stream]);
      product0_[stream] = product0_[stream] + step;
    }
#pragma GCC unroll 8
    for (int round = 2; round < kPhiloxRounds - 1; ++round)
#pragma GCC unroll 4
      for (int stream = 0; stream < kStreams; ++stream)
        x[stream] = full_round(x[stream], key_[round][0], key_[round][1]);
    for (int i = 0; i < kStreams; i += 2) last_round_to_normals(x[i], x[i + 1], n + 2 * i);
  }

 private:
  // Rounds 0 and 1 of groups whose counter's low word times M0 is product0.
  VDM_MEMBER PhiloxLanes first_rounds(U64 product0) const {
    const U64 round0_product1 = mul_lo32(splat(uint64_t{kPhiloxM1}), (product0 >> 32) ^ round0_word2_);
    return {(round0_product1 >> 32) ^ round1_word0_, round0_product1, product0 ^ round1_word2_,
            round1_word3_};
  }

  static VDM_MEMBER PhiloxLanes full_round(const PhiloxLanes& x, U64 key0, U64 key1) {
    const U64 product0 = mul_lo32(splat(uint64_t{kPhiloxM0}), x.x0);
    const U64 product1 = mul_lo32(splat(uint64_t{kPhiloxM1}), x.x2);
    return {xor3(product1 >> 32, x.x1, key0), product1, xor3(product0 >> 32, x.x3, key1), product0};
  }

  // The last round on zipped words, which needs fewer shifts, and the normals of 4 kLanes elements.
  VDM_MEMBER void last_round_to_normals(const PhiloxLanes& even, const PhiloxLanes& odd, F32 n[4]) const {
    const U64 m0 = splat(uint64_t{kPhiloxM0}), m1 = splat(uint64_t{kPhiloxM1});
    const U64 even0 = mul_lo32(m0, even.x0), odd0 = mul_lo32(m0, odd.x0);
    const U64 even1 = mul_lo32(m1, even.x2), odd1 = mul_lo32(m1, odd.x2);
    const U32 r0 = xor3(zip_hi32(even1, odd1), zip_lo32(even.x1, odd.x1), last_key_[0]);
    const U32 r2 = xor3(zip_hi32(even0, odd0), zip_lo32(even.x3, odd.x3), last_key_[1]);
    const U32 r1 = zip_lo32(even1, odd1), r3 = zip_lo32(even0, odd0);
    const F32x2 radius = normal_radius({r0, r2});
    F32x2 cosine = radius, sine = radius;
    cos_sin_turn({r1, r3}, cosine, sine);
    const F32x2 n02 = radius * cosine, n13 = radius * sine;
    n[0] = n02.a;
    n[1] = n13.a;
    n[2] = n02.b;
    n[3] = n13.b;
    interleave4(n[0], n[1], n[2], n[3]);
  }

  U64 key_[kPhiloxRounds][2];
  U32 last_key_[2];
  U64 round0_word2_, round1_word0_, round1_word2_, round1_word3_;
  U64 product0_[kStreams];  // M0 * (low word of the group counter)
};

}  // namespace VDM_ISA
}  // namespace vdm
