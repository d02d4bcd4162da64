// What the passes of group_norm_silu on CUDA share.
//
// A pass over what another has just read walks its chunks from the last to the first, which are still in the
// L2 cache. What is per channel (folding, finalizing) is small, and computed in double.
#pragma once

#include <array>

#include "common/partials.cuh"
#include "group_norm_silu/group_norm_silu_cuda.h"

namespace vdm {

constexpr int64_t kLargeDevice = 132;  // multiprocessors

// The channels first, first + 1, ... of a concatenation of `total` channels lie in a tensor of their own.
struct ChannelPart {
  const void* x;  // (images, pixels, channels)
  void* dx;       // the same
  int64_t channels, first;
};

template <typename Params>
std::array<ChannelPart, 2> parts_of(const Params& params, void* dx, void* dx2) {
  return {ChannelPart{params.x, dx, params.x_channels, 0},
          ChannelPart{params.x2, dx2, params.norm.channels - params.x_channels, params.x_channels}};
}

constexpr int kMaxGroupThreads = 256;

// The entries (image, channel) of a group: of one image or, with `video`, of one video. A thread block has
// one.
struct GroupEntries {
  int64_t first_image, first_channel, channels, group_channels;
  int count;

  __device__ GroupEntries(const GroupNorm& norm, int64_t block)
      : first_image(block / norm.groups * (norm.video ? norm.frames : 1)),
        first_channel(block % norm.groups * norm.group_channels()),
        channels(norm.channels),
        group_channels(norm.group_channels()),
        count(static_cast<int>((norm.video ? norm.frames : 1) * group_channels)) {}
  __device__ int64_t image(int entry) const { return first_image + entry / group_channels; }
  __device__ int64_t channel(int entry) const { return first_channel + entry % group_channels; }
  __device__ int64_t index(int entry) const { return image(entry) * channels + channel(entry); }
};

// The sum over the thread block; all threads get it.
__device__ inline double block_sum(double value) {
  __shared__ double warps[kMaxGroupThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
  __syncthreads();  // the sum before this one has been read
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0.0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += warps[warp];
  return sum;
}

// The mean is that of the channels' means, the variance the mean of variances plus the variance of means.
__device__ inline GroupMoments pool(const GroupNorm& norm, const GroupEntries& entries) {
  const int step = static_cast<int>(blockDim.x), begin = static_cast<int>(threadIdx.x);
  const double share = 1.0 / entries.count;
  double sum = 0.0;
  for (int e = begin; e < entries.count; e += step) sum += norm.statistics[2 * entries.index(e)];
  const double mean = block_sum(sum) * share;
  sum = 0.0;
  for (int e = begin; e < entries.count; e += step) {
    const double deviation = norm.statistics[2 * entries.index(e)] - mean;
    sum += norm.statistics[2 * entries.index(e) + 1] + deviation * deviation;
  }
  return {mean, 1.0 / sqrt(block_sum(sum) * share + norm.eps)};
}

// One thread block per group, of a warp where that has a few entries for each thread.
template <typename Kernel, typename... Args>
void launch_groups(const Kernel& kernel, const GroupNorm& norm, cudaStream_t stream, Args... args) {
  const int64_t frames = norm.video ? norm.frames : 1;
  if (norm.images() == 0) return;
  const int64_t blocks = norm.images() / frames * norm.groups;
  if (blocks > kMaxGrid)
    throw std::invalid_argument("group_norm_silu: there are too many groups for one grid");
  const int threads = frames * norm.group_channels() <= 128 ? 32 : kMaxGroupThreads;
  kernel<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(norm, args...);
}

__device__ inline ChannelPosition backwards(const ChannelGrid& grid) {
  return channel_position(grid, grid.thread_blocks - 1 - blockIdx.x, static_cast<int>(threadIdx.x));
}

}  // namespace vdm
