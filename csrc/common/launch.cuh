// What every CUDA launcher needs: errors as exceptions, the device's size, element types from their codes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/group_grid.h"
#include "common/types.h"

namespace vdm {

inline void check_cuda(cudaError_t error, const char* where) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(where) + ": " + cudaGetErrorString(error));
}

inline int sm_count(const char* where) {
  int device = 0, count = 0;
  check_cuda(cudaGetDevice(&device), where);
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), where);
  return count;
}

inline GroupGrid device_group_grid(int64_t batch, int64_t n, int blocks_per_sm, const char* where) {
  const GroupGrid grid = group_grid(batch, n, int64_t{sm_count(where)} * blocks_per_sm);
  if (grid.thread_blocks < 0)
    throw std::invalid_argument(std::string(where) + ": the batch is too large for one grid");
  return grid;
}

// Calls body(T{}) with the element type of `dtype`.
template <typename Body>
void with_dtype(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(float{});
    case DType::kBFloat16:
      return body(__nv_bfloat16{});
    case DType::kFloat16:
      return body(__half{});
  }
}

// The dynamic shared memory of the thread block.
template <typename T>
__device__ T* dynamic_shared() {
  extern __shared__ uint4 dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory);
}

// Arrays one after the other in a workspace, 16-byte aligned; with a null address, only their size.
struct Workspace {
  uintptr_t next;

  explicit Workspace(void* address) : next(reinterpret_cast<uintptr_t>(address)) {}

  template <typename T>
  T* take(int64_t size) {
    T* const array = reinterpret_cast<T*>(next);
    next += static_cast<uintptr_t>(ceil_div(size * static_cast<int64_t>(sizeof(T)), 16)) * 16;
    return array;
  }
  int64_t bytes_from(const void* address) const {
    return static_cast<int64_t>(next - reinterpret_cast<uintptr_t>(address));
  }
};

// Whether a group of four elements of every sample can be one access at this address; null can.
inline bool group_aligned(const void* tensor, DType dtype) {
  return reinterpret_cast<uintptr_t>(tensor) % (4 * size_of(dtype)) == 0;
}

}  // namespace vdm
