// AVX2, FMA, F16C. See simd.h.
#pragma once

#include <immintrin.h>

namespace vdm {
namespace VDM_ISA {

constexpr int kLanes = 8;

struct F32 {
  __m256 v;
};
struct U32 {
  __m256i v;
};
struct U64 {
  __m256i v;
};
struct U16 {
  __m128i v;
};

VDM_INLINE F32 load(const float* p) { return {_mm256_loadu_ps(p)}; }
VDM_INLINE U32 load(const uint32_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
VDM_INLINE U64 load(const uint64_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
VDM_INLINE U16 load(const uint16_t* p) { return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))}; }
VDM_INLINE void store(float* p, F32 a) { _mm256_storeu_ps(p, a.v); }
VDM_INLINE void store(uint32_t* p, U32 a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v); }
VDM_INLINE void store(uint16_t* p, U16 a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), a.v); }
VDM_INLINE void stream(float* p, F32 a) { _mm256_stream_ps(p, a.v); }
VDM_INLINE void stream(uint16_t* p, U16 a) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), a.v); }
VDM_INLINE void stream_fence() { _mm_sfence(); }

VDM_INLINE __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
VDM_INLINE F32 load_partial(const float* p, int count) { return {_mm256_maskload_ps(p, first_lanes(count))}; }
VDM_INLINE U16 load_partial(const uint16_t* p, int count) {
  uint16_t lanes[kLanes] = {};
  __builtin_memcpy(lanes, p, static_cast<size_t>(count) * sizeof *p);
  return load(lanes);
}
VDM_INLINE void store_partial(float* p, F32 a, int count) { _mm256_maskstore_ps(p, first_lanes(count), a.v); }
VDM_INLINE void store_partial(uint16_t* p, U16 a, int count) {
  uint16_t lanes[kLanes];
  store(lanes, a);
  __builtin_memcpy(p, lanes, static_cast<size_t>(count) * sizeof *p);
}

VDM_INLINE F32 splat(float x) { return {_mm256_set1_ps(x)}; }
VDM_INLINE U32 splat(uint32_t x) { return {_mm256_set1_epi32(static_cast<int>(x))}; }
VDM_INLINE U64 splat(uint64_t x) { return {_mm256_set1_epi64x(static_cast<int64_t>(x))}; }

VDM_INLINE F32 operator+(F32 a, F32 b) { return {_mm256_add_ps(a.v, b.v)}; }
VDM_INLINE F32 operator-(F32 a, F32 b) { return {_mm256_sub_ps(a.v, b.v)}; }
VDM_INLINE F32 operator*(F32 a, F32 b) { return {_mm256_mul_ps(a.v, b.v)}; }
VDM_INLINE F32 operator/(F32 a, F32 b) { return {_mm256_div_ps(a.v, b.v)}; }
VDM_INLINE F32 fma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
VDM_INLINE F32 sqrt(F32 a) { return {_mm256_sqrt_ps(a.v)}; }
VDM_INLINE F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.v, b.v)}; }
VDM_INLINE F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.v, b.v)}; }

VDM_INLINE U32 operator+(U32 a, U32 b) { return {_mm256_add_epi32(a.v, b.v)}; }
VDM_INLINE U32 operator-(U32 a, U32 b) { return {_mm256_sub_epi32(a.v, b.v)}; }
VDM_INLINE U32 operator&(U32 a, U32 b) { return {_mm256_and_si256(a.v, b.v)}; }
VDM_INLINE U32 xor3(U32 a, U32 b, U32 c) { return {_mm256_xor_si256(_mm256_xor_si256(a.v, b.v), c.v)}; }
VDM_INLINE U32 operator<<(U32 a, int n) { return {_mm256_slli_epi32(a.v, n)}; }
VDM_INLINE U32 operator>>(U32 a, int n) { return {_mm256_srli_epi32(a.v, n)}; }
VDM_INLINE U32 shift_right_signed(U32 a, int n) { return {_mm256_srai_epi32(a.v, n)}; }

// Bit i: low <= lane i <= high; for values below 2^31.
VDM_INLINE uint32_t lanes_within(U32 a, U32 low, U32 high) {
  const __m256i outside = _mm256_or_si256(_mm256_cmpgt_epi32(low.v, a.v), _mm256_cmpgt_epi32(a.v, high.v));
  return ~static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(outside))) & 0xFFu;
}
// a > high ? min(a, best) : best; for a and high below 2^31.
VDM_INLINE U32 min_above(U32 a, U32 high, U32 best) {
  const __m256i above = _mm256_cmpgt_epi32(a.v, high.v);
  return {_mm256_blendv_epi8(best.v, _mm256_min_epu32(a.v, best.v), above)};
}

VDM_INLINE U64 operator+(U64 a, U64 b) { return {_mm256_add_epi64(a.v, b.v)}; }
VDM_INLINE U64 operator^(U64 a, U64 b) { return {_mm256_xor_si256(a.v, b.v)}; }
VDM_INLINE U64 operator>>(U64 a, int n) { return {_mm256_srli_epi64(a.v, n)}; }
VDM_INLINE U64 mul_lo32(U64 a, U64 b) { return {_mm256_mul_epu32(a.v, b.v)}; }
VDM_INLINE U64 xor3(U64 a, U64 b, U64 c) { return (a ^ b) ^ c; }

VDM_INLINE U32 bits(F32 a) { return {_mm256_castps_si256(a.v)}; }
VDM_INLINE F32 as_float(U32 a) { return {_mm256_castsi256_ps(a.v)}; }
VDM_INLINE F32 to_float_signed(U32 a) { return {_mm256_cvtepi32_ps(a.v)}; }
// Both halves are exact; the one rounding is the fma's.
VDM_INLINE F32 to_float_unsigned(U32 a) {
  return fma(to_float_signed(a >> 16), splat(65536.0f), to_float_signed(a & splat(0xFFFFu)));
}
// a = 2^k (1 + f), f in [-1/4, 1/2), for normal a > 0.
VDM_INLINE void split_exponent(F32 a, F32& k, F32& f) {
  const U32 relative = bits(a) - bits(splat(0.75f));
  k = to_float_signed(shift_right_signed(relative, 23));
  f = as_float(bits(a) - (relative & splat(0xFF800000u))) - splat(1.0f);
}

// Within [-limit, limit]; NaN stays NaN.
VDM_INLINE F32 clip(F32 a, F32 limit) {
  const __m256 low = _mm256_sub_ps(_mm256_setzero_ps(), limit.v);
  return {_mm256_max_ps(low, _mm256_min_ps(limit.v, a.v))};
}
// |a| <= limit ? b : 0; 0 where a is NaN.
VDM_INLINE F32 keep_within(F32 a, F32 limit, F32 b) {
  const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v);
  return {_mm256_and_ps(_mm256_cmp_ps(magnitude, limit.v, _CMP_LE_OQ), b.v)};
}

VDM_INLINE U32 zip_lo32(U64 even, U64 odd) {
  return {_mm256_blend_epi32(even.v, _mm256_slli_epi64(odd.v, 32), 0xAA)};
}
VDM_INLINE U32 zip_hi32(U64 even, U64 odd) {
  return {_mm256_blend_epi32(_mm256_srli_epi64(even.v, 32), odd.v, 0xAA)};
}

template <int bit>
VDM_INLINE F32 select_bit(U32 t, F32 if_set, F32 if_clear) {
  return {_mm256_blendv_ps(if_clear.v, if_set.v, as_float(t << (31 - bit)).v)};
}

VDM_INLINE F32 flip_sign(F32 x, U32 s) { return {_mm256_xor_ps(x.v, as_float(s & splat(0x80000000u)).v)}; }

VDM_INLINE void interleave4(F32& a, F32& b, F32& c, F32& d) {
  const __m256d ab_lo = _mm256_castps_pd(_mm256_unpacklo_ps(a.v, b.v));
  const __m256d ab_hi = _mm256_castps_pd(_mm256_unpackhi_ps(a.v, b.v));
  const __m256d cd_lo = _mm256_castps_pd(_mm256_unpacklo_ps(c.v, d.v));
  const __m256d cd_hi = _mm256_castps_pd(_mm256_unpackhi_ps(c.v, d.v));
  a.v = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_lo, cd_lo));
  b.v = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_lo, cd_lo));
  c.v = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_hi, cd_hi));
  d.v = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_hi, cd_hi));
}

VDM_INLINE void transpose(F32 (&rows)[kLanes]) {
  interleave4(rows[0], rows[1], rows[2], rows[3]);
  interleave4(rows[4], rows[5], rows[6], rows[7]);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m256 a = rows[i].v, b = rows[i + 4].v;
    rows[i].v = _mm256_permute2f128_ps(a, b, 0x20);
    rows[i + 4].v = _mm256_permute2f128_ps(a, b, 0x31);
  }
}

VDM_INLINE F32 from_bf16(U16 a) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(a.v), 16))};
}

VDM_INLINE U16 to_bf16(F32 a) {
  const __m256i x = _mm256_castps_si256(a.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(x, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(x, _mm256_set1_epi32(0x7FFF)), odd);
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
  const __m256i high =
      _mm256_srli_epi32(_mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7FC00000), is_nan), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
  return {_mm256_castsi256_si128(packed)};
}

VDM_INLINE F32 from_f16(U16 a) { return {_mm256_cvtph_ps(a.v)}; }
VDM_INLINE U16 to_f16(F32 a) { return {_mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT)}; }

}  // namespace VDM_ISA
}  // namespace vdm
