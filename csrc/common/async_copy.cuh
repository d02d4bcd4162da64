// Copies from global to shared memory that do not pass through registers.
#pragma once

#include "common/channel_access.cuh"

namespace vdm {

// Begins a copy; the thread that began it may read it after copy_async_wait. Single elements are copied at
// once.
template <typename T, int kWidth>
__device__ inline void copy_pack_async(Pack<T, kWidth>* shared, const T* address) {
  if constexpr (kWidth == 1) {
    *shared = {{*address}};
  } else {
    static_assert(sizeof(Pack<T, kWidth>) == 16);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     static_cast<unsigned>(__cvta_generic_to_shared(shared))),
                 "l"(address)
                 : "memory");
  }
}

__device__ inline void copy_async_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

}  // namespace vdm
