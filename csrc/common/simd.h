// The vector types of one instruction set, for *_simd.cpp files: F32 and U32 of kLanes lanes, U64 of kLanes
// / 2. Everything is always_inline in namespace vdm::VDM_ISA; these files use nothing of the standard
// library, since an out-of-line copy of an inline function compiled here could be linked into code that runs
// on any CPU.
//
//     load, store, stream         unaligned; stream is non-temporal and needs an aligned address, then
//     stream_fence
//     load_partial, store_partial the first `count` lanes, 0 <= count <= kLanes; the others are zero
//     + - * / & ^ << >>           lane-wise; << and >> by a constant, >> is logical
//     fma(a, b, c)                a * b + c
//     min, max(a, b)              b where either is NaN
//     mul_lo32(a, b)              U64: product of the low halves of each 64-bit lane
//     zip_lo32, zip_hi32          U32: low (high) halves of the 64-bit lanes of two U64, alternately
//     xor3                        exclusive or of three
//     interleave4(a, b, c, d)     within 128-bit lanes: a0 b0 c0 d0, a1 b1 c1 d1, ... (a transposed 4x4)
//     transpose(rows)             lane i of rows[j] becomes lane j of rows[i]
//     split_exponent(a, k, f)     a = 2^k (1 + f), f in [-1/4, 1/2)
//     clip, keep_within           for thresholding
//     select_bit<bit>(t, a, b)    bit of t set ? a : b
//     flip_sign(x, s)             negates x where the top bit of s is set
//     lanes_within(a, low, high)  bit mask of low <= lane <= high, for values below 2^31
//     min_above(a, high, best)    a > high ? min(a, best) : best, for values below 2^31
//     lookup, scale_exponent      AVX-512 only: table[i mod 32]; a 2^floor(n)
//     from_bf16, to_bf16, ...     F32 from and to the bits of a narrower type in U16, rounded to nearest even
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(VDM_ISA)
#  error "simd.h is for files compiled once per instruction set"
#endif

#define VDM_INLINE static inline __attribute__((always_inline))
#define VDM_MEMBER inline __attribute__((always_inline))
#define VDM_LAMBDA __attribute__((always_inline))

#if defined(VDM_ISA_AVX512)
#  include "common/simd_avx512.h"
#elif defined(VDM_ISA_AVX2)
#  include "common/simd_avx2.h"
#else
#  include "common/simd_baseline.h"
#endif

namespace vdm {
namespace VDM_ISA {

// The elementwise kernels take kStep elements at a time.
constexpr int kVectors = 8;
constexpr int kStep = kVectors * kLanes;

VDM_INLINE void prefetch(const void* address) { __builtin_prefetch(address); }

}  // namespace VDM_ISA
}  // namespace vdm
