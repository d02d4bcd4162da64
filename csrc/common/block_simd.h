// Moves tensors of any DType through float32 blocks that stay in the L1 cache, so that kernels are written
// once, for float32.
#pragma once

#include "common/simd.h"
#include "common/types.h"

namespace vdm {
namespace VDM_ISA {

constexpr int kBlock = 1024;    // elements; four float32 blocks take half of a 32 KB L1 cache
constexpr int kPrefetch = 512;  // how many elements ahead the kernels prefetch

// Scratch for one tensor. The kernels work on whole blocks of kStep elements, so a partial block is
// padded.
struct alignas(64) Block {
  float values[kBlock];
};

VDM_INLINE bool can_stream(const float* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

VDM_INLINE void store_or_stream(float* p, F32 a, bool streams) { streams ? stream(p, a) : store(p, a); }

// Where [offset, offset + count) can be used in place.
VDM_INLINE bool is_direct(DType dtype, int count) { return dtype == DType::kFloat32 && count % kStep == 0; }

// Elements [offset, offset + count) as float32: in place where that is possible, otherwise in scratch,
// followed by zeros up to a multiple of kStep.
VDM_INLINE const float* read_block(const void* tensor, DType dtype, int64_t offset, int count,
                                   Block& scratch) {
  if (is_direct(dtype, count)) return static_cast<const float*>(tensor) + offset;
  float* out = scratch.values;
  const uint16_t* narrow = static_cast<const uint16_t*>(tensor) + offset;
  const int whole = count / kLanes * kLanes;
  switch (dtype) {
    case DType::kFloat32:
      __builtin_memcpy(out, static_cast<const float*>(tensor) + offset, static_cast<size_t>(count) * 4);
      break;
    case DType::kBFloat16:
      for (int i = 0; i < whole; i += kLanes) store(out + i, load_bf16(narrow + i));
      break;
    case DType::kFloat16:
      for (int i = 0; i < whole; i += kLanes) store(out + i, load_f16(narrow + i));
      break;
  }
  if (whole < count && dtype != DType::kFloat32) {
    uint16_t tail[kLanes] = {};
    __builtin_memcpy(tail, narrow + whole, static_cast<size_t>(count - whole) * 2);
    store(out + whole, dtype == DType::kBFloat16 ? load_bf16(tail) : load_f16(tail));
  }
  for (int i = count; i % kStep != 0; ++i) out[i] = 0.0f;
  return out;
}

// The float32 block to compute [offset, offset + count) in: the tensor itself or scratch. write_block
// finishes it.
VDM_INLINE float* begin_block(void* tensor, DType dtype, int64_t offset, int count, Block& scratch) {
  return is_direct(dtype, count) ? static_cast<float*>(tensor) + offset : scratch.values;
}

VDM_INLINE void write_block(void* tensor, DType dtype, int64_t offset, int count, const Block& scratch) {
  if (is_direct(dtype, count)) return;
  const float* in = scratch.values;
  uint16_t* narrow = static_cast<uint16_t*>(tensor) + offset;
  const int whole = count / kLanes * kLanes;
  switch (dtype) {
    case DType::kFloat32:
      __builtin_memcpy(static_cast<float*>(tensor) + offset, in, static_cast<size_t>(count) * 4);
      return;
    case DType::kBFloat16:
      for (int i = 0; i < whole; i += kLanes) store_bf16(narrow + i, load(in + i));
      break;
    case DType::kFloat16:
      for (int i = 0; i < whole; i += kLanes) store_f16(narrow + i, load(in + i));
      break;
  }
  if (whole < count) {
    uint16_t tail[kLanes];
    if (dtype == DType::kBFloat16) {
      store_bf16(tail, load(in + whole));
    } else {
      store_f16(tail, load(in + whole));
    }
    __builtin_memcpy(narrow + whole, tail, static_cast<size_t>(count - whole) * 2);
  }
}

}  // namespace VDM_ISA
}  // namespace vdm
