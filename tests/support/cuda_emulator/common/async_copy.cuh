// csrc/common/async_copy.cuh in C++: what is copied is not there before the wait.
#pragma once

#include "common/channel_access.cuh"

namespace vdm {

template <typename T, int kWidth>
void copy_pack_async(Pack<T, kWidth>* shared, const T* address) {
  if (kWidth > 1 && (reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(address)) % 16 != 0)
    emulator::fail("a copy of 16 bytes at another address");
  std::memset(static_cast<void*>(shared), 0xFF, sizeof(*shared));
  emulator::self().copies.push_back({shared, address, sizeof(*shared)});
}

inline void copy_async_wait() {
  for (const emulator::AsyncCopy& copy : emulator::self().copies) std::memcpy(copy.to, copy.from, copy.bytes);
  emulator::self().copies.clear();
}

}  // namespace vdm
