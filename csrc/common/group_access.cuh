// Loads and stores of a group: four consecutive elements of a sample, as float32. With kVector they are one
// access of 16 bytes (float32) or 8 (16-bit types), which takes an aligned tensor and a multiple of four
// elements per sample.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "common/group_grid.h"

namespace vdm {

// How many elements of the sample a group has: 4 or less at its end; 0 or negative beyond.
__device__ inline int group_count(int64_t n, int64_t group) {
  const int64_t left = n - 4 * group;
  return left < 4 ? static_cast<int>(left < 0 ? 0 : left) : 4;
}

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(__half x) { return __half2float(x); }

template <typename T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ inline __half from_float<__half>(float x) {
  return __float2half_rn(x);
}

// Four elements as they lie in memory.
template <typename T>
struct alignas(4 * sizeof(T)) Group {
  T value[4];
};

template <typename T>
struct GroupBits;  // a vector type of the same size, for one access
template <>
struct GroupBits<float> {
  using Type = uint4;
};
template <>
struct GroupBits<__nv_bfloat16> {
  using Type = uint2;
};
template <>
struct GroupBits<__half> {
  using Type = uint2;
};

// The inputs are read once: they are marked to leave the caches first.
template <bool kVector, typename T>
__device__ inline void load_group(const T* sample, int64_t group, int count, float values[4]) {
  if constexpr (kVector) {
    using Bits = typename GroupBits<T>::Type;
    union {
      Bits bits;
      Group<T> group;
    } word;
    word.bits = Bits{};
    if (count > 0) word.bits = __ldcs(reinterpret_cast<const Bits*>(sample) + group);
#pragma unroll
    for (int j = 0; j < 4; ++j) values[j] = to_float(word.group.value[j]);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) values[j] = j < count ? to_float(sample[4 * group + j]) : 0.0f;
  }
}

template <bool kVector, typename T>
__device__ inline void store_group(T* sample, int64_t group, int count, const float values[4]) {
  if constexpr (kVector) {
    Group<T> word;
#pragma unroll
    for (int j = 0; j < 4; ++j) word.value[j] = from_float<T>(values[j]);
    if (count > 0) reinterpret_cast<Group<T>*>(sample)[group] = word;
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (j < count) sample[4 * group + j] = from_float<T>(values[j]);
  }
}

}  // namespace vdm
