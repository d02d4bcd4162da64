// Vectors of float32 from and to tensors of any DType.
#pragma once

#include "common/simd.h"
#include "common/types.h"

namespace vdm {
namespace VDM_ISA {

VDM_INLINE void store_or_stream(float* p, F32 a, bool streams) { streams ? stream(p, a) : store(p, a); }
VDM_INLINE void store_or_stream(uint16_t* p, U16 a, bool streams) { streams ? stream(p, a) : store(p, a); }

VDM_INLINE F32 widen(U16 a, bool bf16) { return bf16 ? from_bf16(a) : from_f16(a); }
VDM_INLINE U16 narrow(F32 a, bool bf16) { return bf16 ? to_bf16(a) : to_f16(a); }

// Calls body(dtype) with a constant, so that no loop inside asks for it.
template <typename Body>
VDM_INLINE void with_constant(DType dtype, const Body& body) {
  if (dtype == DType::kFloat32)
    body(DType::kFloat32);
  else if (dtype == DType::kBFloat16)
    body(DType::kBFloat16);
  else
    body(DType::kFloat16);
}

// Elements i to i + kLanes of a tensor.
VDM_INLINE F32 load(const void* tensor, DType dtype, int64_t i) {
  if (dtype == DType::kFloat32) return load(static_cast<const float*>(tensor) + i);
  return widen(load(static_cast<const uint16_t*>(tensor) + i), dtype == DType::kBFloat16);
}
VDM_INLINE void store(void* tensor, DType dtype, int64_t i, F32 a, bool streams = false) {
  if (dtype == DType::kFloat32)
    store_or_stream(static_cast<float*>(tensor) + i, a, streams);
  else
    store_or_stream(static_cast<uint16_t*>(tensor) + i, narrow(a, dtype == DType::kBFloat16), streams);
}

// Brings element i nearer. It need not exist.
VDM_INLINE void prefetch(const void* tensor, DType dtype, int64_t i) {
  prefetch(static_cast<const char*>(tensor) + i * size_of(dtype));
}

// Elements i to i + count; where `count` is known to be kLanes, this is the same as load and store.
VDM_INLINE F32 load_partial(const void* tensor, DType dtype, int64_t i, int count) {
  if (count == kLanes) return load(tensor, dtype, i);
  if (dtype == DType::kFloat32) return load_partial(static_cast<const float*>(tensor) + i, count);
  return widen(load_partial(static_cast<const uint16_t*>(tensor) + i, count), dtype == DType::kBFloat16);
}
VDM_INLINE void store_partial(void* tensor, DType dtype, int64_t i, F32 a, int count, bool streams = false) {
  if (count == kLanes)
    store(tensor, dtype, i, a, streams);
  else if (dtype == DType::kFloat32)
    store_partial(static_cast<float*>(tensor) + i, a, count);
  else
    store_partial(static_cast<uint16_t*>(tensor) + i, narrow(a, dtype == DType::kBFloat16), count);
}

}  // namespace VDM_ISA
}  // namespace vdm
