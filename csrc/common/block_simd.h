// Moves tensors of any DType through float32 blocks that stay in the L1 cache, so that kernels are written
// once, for float32.
#pragma once

#include "common/convert_simd.h"

namespace vdm {
namespace VDM_ISA {

// Elements: two steps. Small, so that the processor looks past a block's end and its arithmetic overlaps with
// the memory traffic of the next: a bfloat16 ancestral step takes 2.3 ms this way, and 3.2 with blocks of
// 1024.
constexpr int kBlock = 256;
static_assert(kBlock % kStep == 0, "a block is whole steps");

// How many elements the block at offset has.
VDM_INLINE int block_size(int64_t offset, int64_t end) {
  return static_cast<int>(end - offset < kBlock ? end - offset : kBlock);
}

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
    for (; i + kLanes <= count; i += kLanes) store(scratch_ + i, widen(load(in + i), bf16));
    if (i == count) return;
    uint16_t tail[kLanes] = {};
    __builtin_memcpy(tail, in + i, static_cast<size_t>(count - i) * sizeof(uint16_t));
    store(scratch_ + i, widen(load(tail), bf16));
  }

  const void* tensor_;
  DType dtype_;
  alignas(64) float scratch_[kBlock];
};

// Elements [offset, offset + count) of an output: computed as float32 in what begin returns, which has room
// for whole steps, and then finished. With `stream`, they are written around the caches where their alignment
// allows it.
class BlockWriter {
 public:
  VDM_MEMBER BlockWriter(void* tensor, DType dtype, bool stream)
      : tensor_(tensor), dtype_(dtype), stream_(stream) {}

  // The tensor itself where it is float32 and the block fills whole steps. Null where there is no tensor.
  VDM_MEMBER float* begin(int64_t offset, int count) {
    if (tensor_ == nullptr) return nullptr;
    return in_place(count) ? static_cast<float*>(tensor_) + offset : scratch_;
  }

  // Whether to write to what begin returned by store_or_stream(..., true).
  VDM_MEMBER bool streams(const float* block) const { return stream_ && block != scratch_ && aligned(block); }

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
  static VDM_MEMBER bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }
  VDM_MEMBER bool in_place(int count) const { return dtype_ == DType::kFloat32 && count % kStep == 0; }

  VDM_MEMBER void convert(uint16_t* out, int count) const {
    const bool bf16 = dtype_ == DType::kBFloat16, streams = stream_ && aligned(out);
    int i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      const U16 value = narrow(load(scratch_ + i), bf16);
      streams ? stream(out + i, value) : store(out + i, value);
    }
    if (i == count) return;
    uint16_t tail[kLanes];
    store(tail, narrow(load(scratch_ + i), bf16));
    __builtin_memcpy(out + i, tail, static_cast<size_t>(count - i) * sizeof(uint16_t));
  }

  void* tensor_;
  DType dtype_;
  bool stream_;
  alignas(64) float scratch_[kBlock];
};

}  // namespace VDM_ISA
}  // namespace vdm
