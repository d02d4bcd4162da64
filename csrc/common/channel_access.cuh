// Loads and stores of a thread's channels: kWidth consecutive elements, as float32. With kWidth > 1 they are
// one access of 16 bytes, which takes an aligned tensor and rows of a multiple of kWidth elements.
#pragma once

#include <initializer_list>

#include "common/channel_grid.h"
#include "common/group_access.cuh"
#include "common/launch.cuh"

namespace vdm {

template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T value[kWidth];
};

// The elements of a 16-byte access.
template <typename T>
constexpr int kPackWidth = 16 / static_cast<int>(sizeof(T));

template <typename T, int kWidth>
__device__ inline Pack<T, kWidth> load_pack(const T* address) {
  if constexpr (kWidth == 1) {
    return {{*address}};
  } else {
    static_assert(sizeof(Pack<T, kWidth>) == sizeof(uint4));
    union {
      uint4 bits;
      Pack<T, kWidth> pack;
    } word;
    word.bits = *reinterpret_cast<const uint4*>(address);
    return word.pack;
  }
}

template <typename T, int kWidth>
__device__ inline void unpack(const Pack<T, kWidth>& pack, float (&values)[kWidth]) {
#pragma unroll
  for (int j = 0; j < kWidth; ++j) values[j] = to_float(pack.value[j]);
}

template <typename T, int kWidth>
__device__ inline void store_pack(T* address, const float (&values)[kWidth]) {
  union {
    uint4 bits;
    Pack<T, kWidth> pack;
  } word;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) word.pack.value[j] = from_float<T>(values[j]);
  if constexpr (kWidth == 1) {
    *address = word.pack.value[0];
  } else {
    *reinterpret_cast<uint4*>(address) = word.bits;
  }
}

// float32 parameters of a thread's channels; 16-byte loads where the channels come in such packs.
template <int kWidth>
__device__ inline void load_channels(const float* address, float (&values)[kWidth]) {
  if constexpr (kWidth % 4 == 0) {
#pragma unroll
    for (int j = 0; j < kWidth; j += 4) {
      const float4 four = *reinterpret_cast<const float4*>(address + j);
      values[j] = four.x;
      values[j + 1] = four.y;
      values[j + 2] = four.z;
      values[j + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) values[j] = address[j];
  }
}

// The first pixel of an image, which sums are relative to so that they keep their precision where mean >>
// std; zeros where x is null.
struct FirstPixel {
  const void* x;  // (images, image_size) dtype, channels first
  DType dtype;
  int64_t image_size;

  __device__ float operator()(int64_t image, int64_t channel) const {
    const int64_t i = image * image_size + channel;
    if (!x) return 0.0f;
    if (dtype == DType::kFloat32) return static_cast<const float*>(x)[i];
    if (dtype == DType::kBFloat16) return to_float(static_cast<const __nv_bfloat16*>(x)[i]);
    return to_float(static_cast<const __half*>(x)[i]);
  }
};

inline void check_grid(const ChannelGrid& grid, const char* where) {
  if (grid.thread_blocks < 0)
    throw std::invalid_argument(std::string(where) + ": the tensor is too large for one grid");
}

// The width with which rows of these lengths can be accessed at these addresses (null can be any): 16 bytes,
// or one element.
template <typename T>
int pack_width(std::initializer_list<const void*> tensors, std::initializer_list<int64_t> lengths) {
  for (const void* tensor : tensors)
    if (reinterpret_cast<uintptr_t>(tensor) % 16 != 0) return 1;
  for (const int64_t length : lengths)
    if (length % kPackWidth<T> != 0) return 1;
  return kPackWidth<T>;
}

}  // namespace vdm
