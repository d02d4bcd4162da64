// AVX-512 F, BW, DQ, VL. See simd.h.
#pragma once

#include <immintrin.h>

namespace vdm {
namespace VDM_ISA {

constexpr int kLanes = 16;

struct F32 {
  __m512 v;
};
struct U32 {
  __m512i v;
};
struct U64 {
  __m512i v;
};
struct U16 {
  __m256i v;
};

VDM_INLINE F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
VDM_INLINE U32 load(const uint32_t* p) { return {_mm512_loadu_si512(p)}; }
VDM_INLINE U64 load(const uint64_t* p) { return {_mm512_loadu_si512(p)}; }
VDM_INLINE U16 load(const uint16_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
VDM_INLINE void store(float* p, F32 a) { _mm512_storeu_ps(p, a.v); }
VDM_INLINE void store(uint32_t* p, U32 a) { _mm512_storeu_si512(p, a.v); }
VDM_INLINE void store(uint16_t* p, U16 a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v); }
VDM_INLINE void stream(float* p, F32 a) { _mm512_stream_ps(p, a.v); }
VDM_INLINE void stream(uint16_t* p, U16 a) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), a.v); }
VDM_INLINE void stream_fence() { _mm_sfence(); }

VDM_INLINE __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1); }
VDM_INLINE F32 load_partial(const float* p, int count) {
  return {_mm512_maskz_loadu_ps(first_lanes(count), p)};
}
VDM_INLINE U16 load_partial(const uint16_t* p, int count) {
  return {_mm256_maskz_loadu_epi16(first_lanes(count), p)};
}
VDM_INLINE void store_partial(float* p, F32 a, int count) {
  _mm512_mask_storeu_ps(p, first_lanes(count), a.v);
}
VDM_INLINE void store_partial(uint16_t* p, U16 a, int count) {
  _mm256_mask_storeu_epi16(p, first_lanes(count), a.v);
}

VDM_INLINE F32 splat(float x) { return {_mm512_set1_ps(x)}; }
VDM_INLINE U32 splat(uint32_t x) { return {_mm512_set1_epi32(static_cast<int>(x))}; }
VDM_INLINE U64 splat(uint64_t x) { return {_mm512_set1_epi64(static_cast<int64_t>(x))}; }

VDM_INLINE F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
VDM_INLINE F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
VDM_INLINE F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
VDM_INLINE F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
VDM_INLINE F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
VDM_INLINE F32 sqrt(F32 a) { return {_mm512_sqrt_ps(a.v)}; }
VDM_INLINE F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
VDM_INLINE F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }

VDM_INLINE U32 operator+(U32 a, U32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
VDM_INLINE U32 operator-(U32 a, U32 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
VDM_INLINE U32 operator&(U32 a, U32 b) { return {_mm512_and_si512(a.v, b.v)}; }
VDM_INLINE U32 xor3(U32 a, U32 b, U32 c) { return {_mm512_ternarylogic_epi32(a.v, b.v, c.v, 0x96)}; }
VDM_INLINE U32 operator<<(U32 a, int n) { return {_mm512_slli_epi32(a.v, n)}; }
VDM_INLINE U32 operator>>(U32 a, int n) { return {_mm512_srli_epi32(a.v, n)}; }
VDM_INLINE U32 shift_right_signed(U32 a, int n) { return {_mm512_srai_epi32(a.v, n)}; }

// Bit i: low <= lane i <= high; for values below 2^31.
VDM_INLINE uint32_t lanes_within(U32 a, U32 low, U32 high) {
  return _mm512_mask_cmple_epu32_mask(_mm512_cmpge_epu32_mask(a.v, low.v), a.v, high.v);
}
// a > high ? min(a, best) : best; for a and high below 2^31.
VDM_INLINE U32 min_above(U32 a, U32 high, U32 best) {
  return {_mm512_mask_min_epu32(best.v, _mm512_cmpgt_epu32_mask(a.v, high.v), a.v, best.v)};
}

VDM_INLINE U64 operator+(U64 a, U64 b) { return {_mm512_add_epi64(a.v, b.v)}; }
VDM_INLINE U64 operator^(U64 a, U64 b) { return {_mm512_xor_si512(a.v, b.v)}; }
VDM_INLINE U64 operator>>(U64 a, int n) { return {_mm512_srli_epi64(a.v, n)}; }
VDM_INLINE U64 mul_lo32(U64 a, U64 b) { return {_mm512_mul_epu32(a.v, b.v)}; }
VDM_INLINE U64 xor3(U64 a, U64 b, U64 c) { return {_mm512_ternarylogic_epi64(a.v, b.v, c.v, 0x96)}; }

VDM_INLINE U32 bits(F32 a) { return {_mm512_castps_si512(a.v)}; }
VDM_INLINE F32 as_float(U32 a) { return {_mm512_castsi512_ps(a.v)}; }
VDM_INLINE F32 to_float_signed(U32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
VDM_INLINE F32 to_float_unsigned(U32 a) { return {_mm512_cvtepu32_ps(a.v)}; }
// a = 2^k (1 + f), f in [-1/4, 1/2), for normal a > 0. The mantissa times 4/3 rounds to 2 or more from 3/2
// on.
VDM_INLINE void split_exponent(F32 a, F32& k, F32& f) {
  k.v = _mm512_getexp_ps(_mm512_mul_ps(a.v, _mm512_set1_ps(4.0f / 3.0f)));
  f.v = _mm512_sub_ps(_mm512_getmant_ps(a.v, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src), _mm512_set1_ps(1.0f));
}

// table[i mod 32]; a table stays in two registers.
VDM_INLINE F32 lookup(const float (&table)[32], U32 i) {
  return {_mm512_permutex2var_ps(load(table).v, i.v, load(table + 16).v)};
}
// a 2^floor(n).
VDM_INLINE F32 scale_exponent(F32 a, F32 n) { return {_mm512_scalef_ps(a.v, n.v)}; }

// Within [-limit, limit]; NaN stays NaN.
VDM_INLINE F32 clip(F32 a, F32 limit) {
  const __m512 low = _mm512_sub_ps(_mm512_setzero_ps(), limit.v);
  return {_mm512_max_ps(low, _mm512_min_ps(limit.v, a.v))};
}
// |a| <= limit ? b : 0; 0 where a is NaN.
VDM_INLINE F32 keep_within(F32 a, F32 limit, F32 b) {
  const __mmask16 inside = _mm512_cmp_ps_mask(_mm512_abs_ps(a.v), limit.v, _CMP_LE_OQ);
  return {_mm512_maskz_mov_ps(inside, b.v)};
}

VDM_INLINE U32 zip_lo32(U64 even, U64 odd) {
  return {_mm512_mask_shuffle_epi32(even.v, 0xAAAA, odd.v, _MM_PERM_CCAA)};
}
VDM_INLINE U32 zip_hi32(U64 even, U64 odd) {
  return {_mm512_mask_shuffle_epi32(odd.v, 0x5555, even.v, _MM_PERM_DDBB)};
}

template <int bit>
VDM_INLINE F32 select_bit(U32 t, F32 if_set, F32 if_clear) {
  const __mmask16 set = _mm512_test_epi32_mask(t.v, _mm512_set1_epi32(1 << bit));
  return {_mm512_mask_blend_ps(set, if_clear.v, if_set.v)};
}

VDM_INLINE F32 flip_sign(F32 x, U32 s) {
  const __m512i sign = _mm512_set1_epi32(INT32_MIN);
  return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(x.v), s.v, sign, 0x78))};
}

VDM_INLINE void interleave4(F32& a, F32& b, F32& c, F32& d) {
  const __m512d ab_lo = _mm512_castps_pd(_mm512_unpacklo_ps(a.v, b.v));
  const __m512d ab_hi = _mm512_castps_pd(_mm512_unpackhi_ps(a.v, b.v));
  const __m512d cd_lo = _mm512_castps_pd(_mm512_unpacklo_ps(c.v, d.v));
  const __m512d cd_hi = _mm512_castps_pd(_mm512_unpackhi_ps(c.v, d.v));
  a.v = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_lo, cd_lo));
  b.v = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_lo, cd_lo));
  c.v = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_hi, cd_hi));
  d.v = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_hi, cd_hi));
}

VDM_INLINE void transpose(F32 (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) interleave4(rows[i], rows[i + 1], rows[i + 2], rows[i + 3]);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512 a = rows[i].v, b = rows[i + 4].v, c = rows[i + 8].v, d = rows[i + 12].v;
    const __m512 ab_lo = _mm512_shuffle_f32x4(a, b, 0x44), ab_hi = _mm512_shuffle_f32x4(a, b, 0xEE);
    const __m512 cd_lo = _mm512_shuffle_f32x4(c, d, 0x44), cd_hi = _mm512_shuffle_f32x4(c, d, 0xEE);
    rows[i].v = _mm512_shuffle_f32x4(ab_lo, cd_lo, 0x88);
    rows[i + 4].v = _mm512_shuffle_f32x4(ab_lo, cd_lo, 0xDD);
    rows[i + 8].v = _mm512_shuffle_f32x4(ab_hi, cd_hi, 0x88);
    rows[i + 12].v = _mm512_shuffle_f32x4(ab_hi, cd_hi, 0xDD);
  }
}

VDM_INLINE F32 from_bf16(U16 a) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(a.v), 16))};
}

VDM_INLINE U16 to_bf16(F32 a) {
  const __m512i x = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(0x7FFF)), odd);
  rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q),
                                  _mm512_set1_epi32(0x7FC00000));
  return {_mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16))};
}

VDM_INLINE F32 from_f16(U16 a) { return {_mm512_cvtph_ps(a.v)}; }
VDM_INLINE U16 to_f16(F32 a) { return {_mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

}  // namespace VDM_ISA
}  // namespace vdm
