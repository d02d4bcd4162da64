// channel_statistics on CUDA. x is read once, 16 bytes a thread and three accesses in flight; a thread keeps
// its channels and sums their deviations from its first pixel; means are kept relative to the image's first
// pixel. What a thread block finds in its chunk of pixels is combined in shared memory, and the chunks of an
// image by a second kernel, always in the same order.
#include "channel_statistics/channel_statistics_cuda.h"
#include "common/channel_access.cuh"
#include "common/partials.cuh"

namespace vdm {
namespace {

constexpr int kUnroll = 3;
constexpr int kBlocksPerSm = 3;
constexpr int64_t kResident = int64_t{132} * kBlocksPerSm;

template <typename T, int kWidth>
__global__ void __launch_bounds__(kChannelThreads, kBlocksPerSm)
    statistics_kernel(const T* x, ChannelGrid grid, float2* chunks, double2* statistics,
                      int64_t row_channels) {
  __shared__ SharedPartials<Moments, kWidth> shared;
  const ChannelPosition at = channel_position(grid, blockIdx.x, static_cast<int>(threadIdx.x));
  const T* const first = x + at.image * grid.pixels * grid.channels + at.channel;
  const int count = position_count(grid, at);
  Moments moments[kWidth] = {};
  if (count > 0) {
    const T* next = first + (at.begin + at.row) * grid.channels;
    const int64_t stride = grid.rows * grid.channels;
    ShiftedSums<kWidth> sums;
    unpack(load_pack<T, kWidth>(next), sums.shift);
    for (int left = count; left > 0; left -= kUnroll, next += kUnroll * stride) {
      Pack<T, kWidth> packs[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
        if (u < left) packs[u] = load_pack<T, kWidth>(next + u * stride);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (u >= left) break;
        float values[kWidth];
        unpack(packs[u], values);
        sums.add(values);
      }
    }
    float base[kWidth];
    unpack(load_pack<T, kWidth>(first), base);
    sums.moments(static_cast<float>(count), base, moments);
  }
  combine_rows(moments, shared, grid.lanes, grid.rows);
  if (at.row > 0 || !at.active) return;
  if (grid.chunks > 1) {
    float2* const row = chunks + (at.image * grid.chunks + at.chunk) * grid.channels + at.channel;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) row[j] = moments[j].stored();
  } else {
    double2* const row = statistics + at.image * row_channels + at.channel;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) row[j] = moments[j].result(to_float(first[j]));
  }
}

template <typename T>
ChannelGrid statistics_grid(const ChannelStatisticsCudaParams& params) {
  const int width = pack_width<T>({params.x}, {params.channels});
  return channel_grid(params.images, params.pixels, params.channels, width, kUnroll, kResident);
}

}  // namespace

int64_t channel_statistics_cuda_workspace(const ChannelStatisticsCudaParams& params) {
  int64_t chunks = 1;
  with_dtype(params.dtype, [&](auto element) { chunks = statistics_grid<decltype(element)>(params).chunks; });
  return chunks == 1 ? 0 : params.images * chunks * params.channels * static_cast<int64_t>(sizeof(float2));
}

void channel_statistics_cuda(const ChannelStatisticsCudaParams& params, void* stream) {
  constexpr const char* kWhere = "channel_statistics_cuda";
  with_dtype(params.dtype, [&](auto element) {
    using T = decltype(element);
    const ChannelGrid grid = statistics_grid<T>(params);
    if (grid.thread_blocks == 0) return;
    check_grid(grid, kWhere);
    float2* const chunks = static_cast<float2*>(params.workspace);
    double2* const statistics = reinterpret_cast<double2*>(params.statistics);
    const auto cuda_stream = static_cast<cudaStream_t>(stream);
    const auto kernel = grid.width == 1 ? statistics_kernel<T, 1> : statistics_kernel<T, kPackWidth<T>>;
    kernel<<<static_cast<unsigned>(grid.thread_blocks), kChannelThreads, 0, cuda_stream>>>(
        static_cast<const T*>(params.x), grid, chunks, statistics, params.row_channels);
    if (grid.chunks > 1)
      combine_tiles<Moments>(chunks, chunk_tiling(grid), params.images, params.channels,
                             {params.x, params.dtype, params.pixels * params.channels}, statistics,
                             params.row_channels, cuda_stream);
  });
  check_cuda(cudaGetLastError(), kWhere);
}

}  // namespace vdm
