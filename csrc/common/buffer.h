// Memory that a launcher gives back, unlike common/scratch.h: for what grows with the batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace vdm {

struct FreeBuffer {
  void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
};
using Buffer = std::unique_ptr<float[], FreeBuffer>;

// Uninitialized floats, aligned to a cache line. Throws std::bad_alloc.
inline Buffer allocate(int64_t size) {
  return Buffer(new (std::align_val_t{64}) float[static_cast<size_t>(size)]);
}

}  // namespace vdm
