// philox_normal on CUDA. One group of four normals (one Philox counter) per thread, written with one access;
// nothing is read but the sample's seed. Bound by the integer and float arithmetic of the noise, near the
// speed of a plain write.
#include "common/group_access.cuh"
#include "common/launch.cuh"
#include "common/philox.h"
#include "philox_normal/philox_normal.h"

namespace vdm {
namespace {

constexpr int kBlocksPerSm = 12;

template <typename T, bool kVector>
__global__ void __launch_bounds__(kGroupsPerBlock, kBlocksPerSm)
    philox_normal_kernel(PhiloxNormalParams params, GroupGrid grid) {
  const int64_t sample = blockIdx.x / grid.splits;
  const int64_t seed = params.seed[sample], draw = *params.draw;
  T* const out = static_cast<T*>(params.out) + sample * params.n;
  for (int64_t block = blockIdx.x % grid.splits; block < grid.blocks; block += grid.splits) {
    const int64_t group = block * kGroupsPerBlock + threadIdx.x;
    float normals[4];
    normals_from_bits(philox_group(seed, draw, group), normals);
    store_group<kVector>(out, group, group_count(params.n, group), normals);
  }
}

}  // namespace

void philox_normal_cuda(const PhiloxNormalParams& params, void* stream) {
  const GroupGrid grid = device_group_grid(params.batch, params.n, kBlocksPerSm, "philox_normal_cuda");
  if (grid.thread_blocks == 0) return;
  const bool vector = params.n % 4 == 0 && group_aligned(params.out, params.dtype);
  with_dtype(params.dtype, [&](auto element) {
    using T = decltype(element);
    const auto kernel = vector ? philox_normal_kernel<T, true> : philox_normal_kernel<T, false>;
    kernel<<<static_cast<unsigned>(grid.thread_blocks), kGroupsPerBlock, 0,
             static_cast<cudaStream_t>(stream)>>>(params, grid);
  });
  check_cuda(cudaGetLastError(), "philox_normal_cuda");
}

}  // namespace vdm
