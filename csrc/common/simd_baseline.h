// What every CPU of the architecture has: four lanes of GCC's and Clang's portable vectors (SSE2, NEON). See
// simd.h.
#pragma once

#if defined(__SSE2__)
#  include <emmintrin.h>
#elif defined(__ARM_NEON)
#  include <arm_neon.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#  error "vdm: needs a little-endian CPU"
#endif

namespace vdm {
namespace VDM_ISA {

constexpr int kLanes = 4;

typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef uint32_t u32x4 __attribute__((vector_size(16)));
typedef uint16_t u16x4 __attribute__((vector_size(8)));
typedef uint64_t u64x2 __attribute__((vector_size(16)));

struct F32 {
  f32x4 v;
};
struct U32 {
  u32x4 v;
};
struct U64 {
  u64x2 v;
};
struct U16 {
  u16x4 v;
};

template <typename Vector, typename T>
VDM_INLINE Vector load_vector(const T* p) {
  Vector a;
  __builtin_memcpy(&a.v, p, sizeof a.v);
  return a;
}
VDM_INLINE F32 load(const float* p) { return load_vector<F32>(p); }
VDM_INLINE U32 load(const uint32_t* p) { return load_vector<U32>(p); }
VDM_INLINE U64 load(const uint64_t* p) { return load_vector<U64>(p); }
VDM_INLINE U16 load(const uint16_t* p) { return load_vector<U16>(p); }
VDM_INLINE void store(float* p, F32 a) { __builtin_memcpy(p, &a.v, sizeof a.v); }
VDM_INLINE void store(uint32_t* p, U32 a) { __builtin_memcpy(p, &a.v, sizeof a.v); }
VDM_INLINE void store(uint16_t* p, U16 a) { __builtin_memcpy(p, &a.v, sizeof a.v); }
VDM_INLINE void stream(uint16_t* p, U16 a) { store(p, a); }
#if defined(__SSE2__)
VDM_INLINE void stream(float* p, F32 a) { _mm_stream_ps(p, a.v); }
VDM_INLINE void stream_fence() { _mm_sfence(); }
#else
VDM_INLINE void stream(float* p, F32 a) { store(p, a); }
VDM_INLINE void stream_fence() {}
#endif

template <typename Vector, typename T>
VDM_INLINE Vector load_first(const T* p, int count) {
  Vector a = {};
  __builtin_memcpy(&a.v, p, static_cast<size_t>(count) * sizeof *p);
  return a;
}
VDM_INLINE F32 load_partial(const float* p, int count) { return load_first<F32>(p, count); }
VDM_INLINE U16 load_partial(const uint16_t* p, int count) { return load_first<U16>(p, count); }
VDM_INLINE void store_partial(float* p, F32 a, int count) {
  __builtin_memcpy(p, &a.v, static_cast<size_t>(count) * sizeof *p);
}
VDM_INLINE void store_partial(uint16_t* p, U16 a, int count) {
  __builtin_memcpy(p, &a.v, static_cast<size_t>(count) * sizeof *p);
}

VDM_INLINE F32 splat(float x) { return {f32x4{x, x, x, x}}; }
VDM_INLINE U32 splat(uint32_t x) { return {u32x4{x, x, x, x}}; }
VDM_INLINE U64 splat(uint64_t x) { return {u64x2{x, x}}; }

VDM_INLINE F32 operator+(F32 a, F32 b) { return {a.v + b.v}; }
VDM_INLINE F32 operator-(F32 a, F32 b) { return {a.v - b.v}; }
VDM_INLINE F32 operator*(F32 a, F32 b) { return {a.v * b.v}; }
VDM_INLINE F32 operator/(F32 a, F32 b) { return {a.v / b.v}; }
VDM_INLINE F32 fma(F32 a, F32 b, F32 c) { return {a.v * b.v + c.v}; }  // contracted where the CPU can
VDM_INLINE F32 sqrt(F32 a) {
#if defined(__SSE2__)
  return {_mm_sqrt_ps(a.v)};
#else
  return {f32x4{__builtin_sqrtf(a.v[0]), __builtin_sqrtf(a.v[1]), __builtin_sqrtf(a.v[2]),
                __builtin_sqrtf(a.v[3])}};
#endif
}

VDM_INLINE U32 operator+(U32 a, U32 b) { return {a.v + b.v}; }
VDM_INLINE U32 operator-(U32 a, U32 b) { return {a.v - b.v}; }
VDM_INLINE U32 operator&(U32 a, U32 b) { return {a.v & b.v}; }
VDM_INLINE U32 xor3(U32 a, U32 b, U32 c) { return {a.v ^ b.v ^ c.v}; }
VDM_INLINE U32 operator<<(U32 a, int n) { return {a.v << n}; }
VDM_INLINE U32 operator>>(U32 a, int n) { return {a.v >> n}; }
VDM_INLINE U32 shift_right_signed(U32 a, int n) { return {(u32x4)((i32x4)a.v >> n)}; }
VDM_INLINE U32 select(u32x4 mask, U32 a, U32 b) { return {(mask & a.v) | (~mask & b.v)}; }
VDM_INLINE F32 select(u32x4 mask, F32 a, F32 b) {
  return {(f32x4)select(mask, U32{(u32x4)a.v}, U32{(u32x4)b.v}).v};
}
VDM_INLINE F32 min(F32 a, F32 b) { return select((u32x4)(a.v < b.v), a, b); }
VDM_INLINE F32 max(F32 a, F32 b) { return select((u32x4)(a.v > b.v), a, b); }

// Bit i: low <= lane i <= high; for values below 2^31.
VDM_INLINE uint32_t lanes_within(U32 a, U32 low, U32 high) {
  const u32x4 within = (u32x4)(a.v >= low.v) & (u32x4)(a.v <= high.v);
  return (within[0] & 1) | (within[1] & 2) | (within[2] & 4) | (within[3] & 8);
}
// a > high ? min(a, best) : best; for a and high below 2^31.
VDM_INLINE U32 min_above(U32 a, U32 high, U32 best) {
  return select((u32x4)(a.v > high.v) & (u32x4)(a.v < best.v), a, best);
}

VDM_INLINE U64 operator+(U64 a, U64 b) { return {a.v + b.v}; }
VDM_INLINE U64 operator^(U64 a, U64 b) { return {a.v ^ b.v}; }
VDM_INLINE U64 operator>>(U64 a, int n) { return {a.v >> n}; }
VDM_INLINE U64 xor3(U64 a, U64 b, U64 c) { return {a.v ^ b.v ^ c.v}; }
VDM_INLINE U64 mul_lo32(U64 a, U64 b) {
#if defined(__SSE2__)
  return {(u64x2)_mm_mul_epu32((__m128i)a.v, (__m128i)b.v)};
#elif defined(__ARM_NEON)
  return {(u64x2)vmull_u32(vmovn_u64((uint64x2_t)a.v), vmovn_u64((uint64x2_t)b.v))};
#else
  return {(a.v & 0xFFFFFFFFu) * (b.v & 0xFFFFFFFFu)};
#endif
}

VDM_INLINE U32 bits(F32 a) { return {(u32x4)a.v}; }
VDM_INLINE F32 as_float(U32 a) { return {(f32x4)a.v}; }
VDM_INLINE F32 to_float_signed(U32 a) { return {__builtin_convertvector((i32x4)a.v, f32x4)}; }
// Both halves are exact; the one rounding is the sum's, contracted or not.
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
  const U32 low = select((u32x4)(a.v < -limit.v), bits({-limit.v}), bits(a));
  return as_float(select((u32x4)(a.v > limit.v), bits(limit), low));
}
// |a| <= limit ? b : 0; 0 where a is NaN.
VDM_INLINE F32 keep_within(F32 a, F32 limit, F32 b) {
  const u32x4 inside = (u32x4)(a.v <= limit.v) & (u32x4)(a.v >= -limit.v);
  return as_float({inside & bits(b).v});
}

VDM_INLINE U32 zip_lo32(U64 even, U64 odd) {
  const u64x2 low = {0xFFFFFFFFu, 0xFFFFFFFFu};
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  return {(u32x4)((even.v & low) | (odd.v << 32))};
#else
#  error "vdm: only little-endian CPUs are supported"
#endif
}
VDM_INLINE U32 zip_hi32(U64 even, U64 odd) {
  const u64x2 high = {~uint64_t{0} << 32, ~uint64_t{0} << 32};
  return {(u32x4)((even.v >> 32) | (odd.v & high))};
}

template <int bit>
VDM_INLINE F32 select_bit(U32 t, F32 if_set, F32 if_clear) {
  const u32x4 set = (u32x4)((i32x4)(t.v << (31 - bit)) >> 31);
  return as_float(select(set, bits(if_set), bits(if_clear)));
}

VDM_INLINE F32 flip_sign(F32 x, U32 s) { return as_float({bits(x).v ^ (s.v & 0x80000000u)}); }

VDM_INLINE void interleave4(F32& a, F32& b, F32& c, F32& d) {
  const f32x4 row0 = {a.v[0], b.v[0], c.v[0], d.v[0]}, row1 = {a.v[1], b.v[1], c.v[1], d.v[1]};
  const f32x4 row2 = {a.v[2], b.v[2], c.v[2], d.v[2]}, row3 = {a.v[3], b.v[3], c.v[3], d.v[3]};
  a.v = row0;
  b.v = row1;
  c.v = row2;
  d.v = row3;
}

VDM_INLINE void transpose(F32 (&rows)[kLanes]) { interleave4(rows[0], rows[1], rows[2], rows[3]); }

VDM_INLINE U32 widen(U16 a) { return {__builtin_convertvector(a.v, u32x4)}; }
VDM_INLINE U16 narrow(U32 a) { return {__builtin_convertvector(a.v, u16x4)}; }

VDM_INLINE F32 from_bf16(U16 a) { return as_float(widen(a) << 16); }

VDM_INLINE U16 to_bf16(F32 a) {
  const U32 x = bits(a);
  const U32 rounded = x + splat(0x7FFFu) + ((x >> 16) & splat(1u));
  return narrow(select((u32x4)(a.v != a.v), splat(0x7FC0u), rounded >> 16));
}

// Scaling by 2^112 moves the exponent from half's bias to float's, subnormals included.
VDM_INLINE F32 from_f16(U16 a) {
  const U32 h = widen(a);
  const U32 magnitude = (h & splat(0x7FFFu)) << 13;
  const U32 finite = bits(as_float(magnitude) * splat(0x1p112f));
  const U32 infinite_or_nan = magnitude + splat(0x70000000u);  // exponent 31 becomes 255
  return flip_sign(as_float(select((u32x4)(magnitude.v >= 0x0F800000u), infinite_or_nan, finite)), h << 16);
}

// Adding a power of two whose last bit is half's last bit at that exponent makes the FPU round.
VDM_INLINE U16 to_f16(F32 a) {
  const U32 x = bits(a);
  const U32 magnitude = x & splat(0x7FFFFFFFu);
  const U32 subnormal = bits(as_float(magnitude) + splat(0.5f)) - splat(0x3F000000u);
  const U32 odd = (magnitude >> 13) & splat(1u);
  const U32 normal = (magnitude + splat(0xC8000FFFu) + odd) >> 13;  // rebias by -112 << 23 and round
  U32 h = select((u32x4)(magnitude.v < 0x38800000u), subnormal, normal);
  h = select((u32x4)(magnitude.v >= 0x477FF000u), splat(0x7C00u), h);  // rounds to infinity
  h = select((u32x4)(magnitude.v > 0x7F800000u), splat(0x7E00u), h);   // NaN
  return narrow({h.v | ((x.v >> 16) & 0x8000u)});
}

}  // namespace VDM_ISA
}  // namespace vdm
