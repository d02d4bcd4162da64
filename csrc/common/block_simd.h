// Moves tensors of any DType through float32 blocks that stay in the L1 cache, so that kernels are written
// once, for float32.
#pragma once

#include "common/simd.h"
#include "common/types.h"

namespace vdm {
namespace VDM_ISA {

constexpr int kBlock = 1024;  // elements; four float32 blocks take half of a 32 KB L1 cache

// How many elements the block at offset has.
VDM_INLINE int block_size(int64_t offset, int64_t end) {
  return static_cast<int>(end - offset < kBlock ? end - offset : kBlock);
}

VDM_INLINE void store_or_stream(float* p, F32 a, bool streams) { streams ? stream(p, a) : store(p, a); }

// Elements [offset, offset + count) of an input, as float32.
class BlockReader {
 public:
  VDM_MEMBER BlockReader(const void* tensor, DType dtype) : tensor_(tensor), dtype_(dtype) {}

  // In place where they are float32 and fill whole steps; otherwise a converted copy, followed by zeros to
  // the end of the last step. Null where there is no tensor.
  VDM_MEMBER const float* read(int64_t offset, int count) {
    if (tensor_ == nullptr) return nullptr;
    if (dtype_ == DType::kFloat32) {
      const float* in = static_cast<const float*>(tensor_) + offset;
      if (count % kStep == 0) return in;
      __builtin_memcpy(scratch_, in, static_cast<size_t>(count) * sizeof(float));
    } else {
      convert(static_cast<const uint16_t*>(tensor_) + offset, count);
    }
    for (int i = count; i % kStep != 0; ++i) scratch_[i] = 0.0f;
    return scratch_;
  }

 private:
  VDM_MEMBER void convert(const uint16_t* in, int count) {
    const bool bf16 = dtype_ == DType::kBFloat16;
    int i = 0;
    for (; i + kLanes <= count; i += kLanes) store(scratch_ + i, bf16 ? load_bf16(in + i) : load_f16(in + i));
    if (i == count) return;
    uint16_t tail[kLanes] = {};
    __builtin_memcpy(tail, in + i, static_cast<size_t>(count - i) * sizeof(uint16_t));
    store(scratch_ + i, bf16 ? load_bf16(tail) : load_f16(tail));
  }

  const void* tensor_;
  DType dtype_;
  alignas(64) float scratch_[kBlock];
};

// Elements [offset, offset + count) of an output: computed as float32 in what begin returns, which has room
// for whole steps, and then finished.
class BlockWriter {
 public:
  VDM_MEMBER BlockWriter(void* tensor, DType dtype) : tensor_(tensor), dtype_(dtype) {}

  // The tensor itself where it is float32 and the block fills whole steps. Null where there is no tensor.
  VDM_MEMBER float* begin(int64_t offset, int count) {
    if (tensor_ == nullptr) return nullptr;
    return in_place(count) ? static_cast<float*>(tensor_) + offset : scratch_;
  }

  // Whether what begin returned can be written around the caches.
  VDM_MEMBER bool can_stream(const float* block) const {
    return block != scratch_ && reinterpret_cast<uintptr_t>(block) % 64 == 0;
  }

  VDM_MEMBER void finish(int64_t offset, int count) {
    if (tensor_ == nullptr || in_place(count)) return;
    if (dtype_ == DType::kFloat32) {
      float* out = static_cast<float*>(tensor_) + offset;
      __builtin_memcpy(out, scratch_, static_cast<size_t>(count) * sizeof(float));
    } else {
      convert(static_cast<uint16_t*>(tensor_) + offset, count);
    }
  }

 private:
  VDM_MEMBER bool in_place(int count) const { return dtype_ == DType::kFloat32 && count % kStep == 0; }

  VDM_MEMBER void convert(uint16_t* out, int count) const {
    const bool bf16 = dtype_ == DType::kBFloat16;
    int i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      const F32 value = load(scratch_ + i);
      bf16 ? store_bf16(out + i, value) : store_f16(out + i, value);
    }
    if (i == count) return;
    uint16_t tail[kLanes];
    bf16 ? store_bf16(tail, load(scratch_ + i)) : store_f16(tail, load(scratch_ + i));
    __builtin_memcpy(out + i, tail, static_cast<size_t>(count - i) * sizeof(uint16_t));
  }

  void* tensor_;
  DType dtype_;
  alignas(64) float scratch_[kBlock];
};

}  // namespace VDM_ISA
}  // namespace vdm
