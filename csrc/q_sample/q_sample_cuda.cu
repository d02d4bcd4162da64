// q_sample on CUDA: x is read once, z and eps are written once, one group of four elements (one Philox
// counter) per thread. alpha and sigma are computed in double by one thread of each thread block while the
// others make their first noise.
#include "common/coefficients.h"
#include "common/group_access.cuh"
#include "common/launch.cuh"
#include "common/philox.h"
#include "q_sample/q_sample.h"

namespace vdm {
namespace {

constexpr int kBlocksPerSm = 12;

template <typename T, bool kVector>
__global__ void __launch_bounds__(kGroupsPerBlock, kBlocksPerSm)
    q_sample_kernel(QSampleParams params, GroupGrid grid) {
  __shared__ float2 shared_alpha_sigma;
  const int64_t sample = blockIdx.x / grid.splits;
  const int64_t first = blockIdx.x % grid.splits;
  if (threadIdx.x == 0) {
    const auto signal = signal_noise(static_cast<double>(params.logsnr[sample]), params.variance_preserving);
    shared_alpha_sigma = {static_cast<float>(signal.alpha), static_cast<float>(signal.sigma)};
  }
  const int64_t seed = params.seed[sample], draw = *params.draw;
  const T* const x = static_cast<const T*>(params.x) + sample * params.n;
  T* const z = static_cast<T*>(params.z) + sample * params.n;
  T* const eps = static_cast<T*>(params.eps) + sample * params.n;
  for (int64_t block = first; block < grid.blocks; block += grid.splits) {
    const int64_t group = block * kGroupsPerBlock + threadIdx.x;
    const int count = group_count(params.n, group);
    float values[4], normals[4];
    load_group<kVector>(x, group, count, values);
    normals_from_bits(philox_group(seed, draw, group), normals);
    if (block == first) __syncthreads();
    const float2 alpha_sigma = shared_alpha_sigma;
#pragma unroll
    for (int j = 0; j < 4; ++j) values[j] = fmaf(alpha_sigma.x, values[j], alpha_sigma.y * normals[j]);
    store_group<kVector>(z, group, count, values);
    store_group<kVector>(eps, group, count, normals);
  }
}

}  // namespace

void q_sample_cuda(const QSampleParams& params, void* stream) {
  const GroupGrid grid = device_group_grid(params.batch, params.n, kBlocksPerSm, "q_sample_cuda");
  if (grid.thread_blocks == 0) return;
  const bool vector = params.n % 4 == 0 && group_aligned(params.x, params.dtype) &&
                      group_aligned(params.z, params.dtype) && group_aligned(params.eps, params.dtype);
  with_dtype(params.dtype, [&](auto element) {
    using T = decltype(element);
    const auto kernel = vector ? q_sample_kernel<T, true> : q_sample_kernel<T, false>;
    kernel<<<static_cast<unsigned>(grid.thread_blocks), kGroupsPerBlock, 0,
             static_cast<cudaStream_t>(stream)>>>(params, grid);
  });
  check_cuda(cudaGetLastError(), "q_sample_cuda");
}

}  // namespace vdm
