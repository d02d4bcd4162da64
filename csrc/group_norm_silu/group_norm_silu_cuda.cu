// group_norm_silu on CUDA. With statistics x is read once and y is written once, 16 bytes a thread and
// access. Without statistics one kernel does it all where a thread block's shared memory holds what its
// groups are normalized over; else x is read once more.
#include <algorithm>

#include "channel_statistics/channel_statistics_cuda.h"
#include "common/activation.cuh"
#include "common/async_copy.cuh"
#include "group_norm_silu/group_norm_silu_cuda.cuh"

namespace vdm {
namespace {

// --- Per group ------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(kMaxGroupThreads) fold_kernel(GroupNorm norm, float* folded) {
  const GroupEntries entries(norm, blockIdx.x);
  const GroupMoments moments = pool(norm, entries);
  const int64_t plane = norm.images() * norm.channels;
  for (int e = static_cast<int>(threadIdx.x); e < entries.count; e += static_cast<int>(blockDim.x)) {
    const int64_t image = entries.image(e), channel = entries.channel(e), i = entries.index(e);
    const double scaled = norm.factor(image, channel), gain = moments.rstd * norm.weight[channel] * scaled;
    folded[i] = moments.center();
    folded[plane + i] = static_cast<float>(gain);
    folded[2 * plane + i] = static_cast<float>(norm.bias[channel] * scaled + norm.added(image, channel) -
                                               moments.beyond_center() * gain);
  }
}

// --- Per element ----------------------------------------------------------------------------------------

constexpr int kNormalizeBlocksPerSm = 3;
constexpr int kNormalizeUnroll = 4;

template <typename T, int kWidth>
__global__ void __launch_bounds__(kChannelThreads, kNormalizeBlocksPerSm)
    normalize_kernel(ChannelPart part, T* y, const float* folded, int64_t images, int64_t total,
                     ChannelGrid grid) {
  const ChannelPosition at = backwards(grid);
  int left = position_count(grid, at);
  if (left == 0) return;
  const int64_t pixel = at.image * grid.pixels + at.begin + at.row, channel = part.first + at.channel;
  const T* x = static_cast<const T*>(part.x) + pixel * part.channels + at.channel;
  y += pixel * total + channel;
  const int64_t x_stride = grid.rows * part.channels, y_stride = grid.rows * total;
  const Fold<kWidth> fold(folded, images, total, at.image * total + channel);
  for (; left > 0; left -= kNormalizeUnroll) {
    Pack<T, kWidth> packs[kNormalizeUnroll];
#pragma unroll
    for (int u = 0; u < kNormalizeUnroll; ++u)
      if (u < left) packs[u] = load_pack<T, kWidth>(x + u * x_stride);
#pragma unroll
    for (int u = 0; u < kNormalizeUnroll; ++u) {
      if (u >= left) break;
      float values[kWidth];
      unpack(packs[u], values);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) values[j] = silu(fold(j, values[j]));
      store_pack(y + u * y_stride, values);
    }
    x += kNormalizeUnroll * x_stride;
    y += kNormalizeUnroll * y_stride;
  }
}

// --- In one pass -----------------------------------------------------------------------------------------

constexpr int kOnePassBlocksPerSm = 2;
constexpr int64_t kOnePassBytes = 64 << 10;  // of x, in shared memory
constexpr int kOnePassChannels = 64;         // of a thread block

// An "image" is what a group is normalized over: a frame, or all frames of a video one below the other.
struct OnePassGrid {
  ChannelGrid grid;
  int block_channels;  // whole groups
  int64_t bytes;       // of shared memory
};

template <typename T>
OnePassGrid one_pass_grid(const GroupNormSiluCudaParams& params) {
  constexpr int64_t kSector = 32;  // bytes of one memory transaction
  const GroupNorm& norm = params.norm;
  int64_t channels = norm.group_channels();
  while (channels * static_cast<int64_t>(sizeof(T)) < kSector && norm.channels % (2 * channels) == 0)
    channels *= 2;
  const int64_t pixels = norm.video ? norm.frames * params.pixels : params.pixels;
  const int64_t images = norm.video ? norm.batch : norm.images();
  const int width = pack_width<T>({params.x, params.y}, {norm.channels, channels});
  const int64_t lanes = channels / width, rows = kChannelThreads / (lanes < 1 ? 1 : lanes);
  const int64_t blocks = norm.channels / channels;
  OnePassGrid result;
  result.block_channels = static_cast<int>(channels);
  result.grid = {pixels,
                 norm.channels,
                 width,
                 static_cast<int>(lanes),
                 static_cast<int>(rows),
                 blocks,
                 1,
                 pixels,
                 images > kMaxGrid / blocks ? -1 : images * blocks};
  result.bytes = rows < 1
                     ? kOnePassBytes + 1
                     : ceil_div(pixels, rows) * kChannelThreads * width * static_cast<int64_t>(sizeof(T));
  return result;
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kChannelThreads, kOnePassBlocksPerSm)
    one_pass_kernel(GroupNormSiluCudaParams params, ChannelGrid grid, int block_channels) {
  __shared__ SharedPartials<Moments, kWidth> shared;
  __shared__ float means[kOnePassChannels], variances[kOnePassChannels];
  alignas(16) __shared__ float folded[3 * kOnePassChannels];
  // Each thread's own packs: the other threads do not read them.
  Pack<T, kWidth>* const slab = dynamic_shared<Pack<T, kWidth>>() + threadIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  const ChannelPosition at = channel_position(grid, blockIdx.x, thread);
  const int count = position_count(grid, at);
  const int64_t stride = grid.rows * grid.channels;
  const int64_t offset = (at.image * grid.pixels + at.row) * grid.channels + at.channel;
  const T* const x = static_cast<const T*>(params.x);
  const int64_t first_channel = at.channel - at.lane * kWidth;
  // The means below are relative to one value, so that they keep their precision where mean >> std.
  const float one = to_float(x[at.image * grid.pixels * grid.channels + first_channel]);
  Moments moments[kWidth] = {};
  if (count > 0) {
    float base[kWidth];
#pragma unroll
    for (int j = 0; j < kWidth; ++j) base[j] = one;
    ShiftedSums<kWidth> sums;
    unpack(load_pack<T, kWidth>(x + offset), sums.shift);
    for (int i = 0; i < count; ++i) copy_pack_async(slab + i * kChannelThreads, x + offset + i * stride);
    copy_async_wait();
    for (int i = 0; i < count; ++i) {
      float values[kWidth];
      unpack(slab[i * kChannelThreads], values);
      sums.add(values);
    }
    sums.moments(static_cast<float>(count), base, moments);
  }
  combine_rows(moments, shared, grid.lanes, grid.rows);
  if (at.row == 0 && at.active) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      means[at.lane * kWidth + j] = moments[j].mean;
      variances[at.lane * kWidth + j] = moments[j].m2 / moments[j].count;
    }
  }
  __syncthreads();
  if (thread < block_channels) {
    const GroupNorm& norm = params.norm;
    const int size = static_cast<int>(norm.group_channels()), begin = thread / size * size;
    const float share = 1.0f / static_cast<float>(size);
    float mean = 0.0f, variance = 0.0f;
    for (int c = begin; c < begin + size; ++c) mean = fmaf(share, means[c], mean);
    for (int c = begin; c < begin + size; ++c)
      variance += variances[c] + (means[c] - mean) * (means[c] - mean);
    const float rstd = 1.0f / sqrtf(fmaf(variance, share, static_cast<float>(norm.eps)));
    const float center = one + mean, rest = mean - (center - one);
    const int64_t channel = first_channel + thread, image = norm.video ? at.image * norm.frames : at.image;
    const float scaled = static_cast<float>(norm.factor(image, channel));
    const float gain = rstd * norm.weight[channel] * scaled;
    folded[thread] = center;
    folded[kOnePassChannels + thread] = gain;
    folded[2 * kOnePassChannels + thread] =
        fmaf(norm.bias[channel], scaled, static_cast<float>(norm.added(image, channel))) - rest * gain;
  }
  __syncthreads();
  if (count == 0) return;
  const Fold<kWidth> fold(folded, 1, kOnePassChannels, at.lane * kWidth);
  T* const y = static_cast<T*>(params.y);
  for (int i = 0; i < count; ++i) {
    float values[kWidth];
    unpack(slab[i * kChannelThreads], values);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) values[j] = silu(fold(j, values[j]));
    store_pack(y + offset + i * stride, values);
  }
}

// --- Launchers ------------------------------------------------------------------------------------------

struct ForwardWorkspace {
  float* folded;          // (3, images, channels)
  Statistic* statistics;  // (images, channels, 2), where they are not given
  char* chunks;
  int64_t bytes;
};

ChannelStatisticsCudaParams statistics_of(const GroupNormSiluCudaParams& params, const ChannelPart& part,
                                          const ForwardWorkspace& workspace) {
  return {part.x,
          workspace.statistics + 2 * part.first,
          params.dtype,
          params.norm.images(),
          params.pixels,
          part.channels,
          params.norm.channels,
          workspace.chunks};
}

bool one_pass_fits(const GroupNormSiluCudaParams& params) {
  const GroupNorm& norm = params.norm;
  const bool one_modulation = !norm.video || norm.modulation_frames == 1 || (!norm.scale && !norm.shift);
  if (norm.statistics || params.x2 || !one_modulation) return false;
  bool fits = false;
  with_dtype(params.dtype, [&](auto element) {
    const OnePassGrid one_pass = one_pass_grid<decltype(element)>(params);
    fits = one_pass.bytes <= kOnePassBytes && one_pass.block_channels <= kOnePassChannels;
  });
  return fits;
}

ForwardWorkspace forward_workspace(const GroupNormSiluCudaParams& params) {
  const int64_t size = params.norm.images() * params.norm.channels;
  Workspace arrays(params.workspace);
  ForwardWorkspace workspace{arrays.take<float>(3 * size), nullptr, nullptr, 0};
  if (!params.norm.statistics) {
    workspace.statistics = arrays.take<Statistic>(2 * size);
    int64_t bytes = 0;  // the parts take turns
    for (const ChannelPart& part : parts_of(params, nullptr, nullptr))
      bytes = std::max(bytes, channel_statistics_cuda_workspace(statistics_of(params, part, workspace)));
    workspace.chunks = arrays.take<char>(bytes);
  }
  workspace.bytes = arrays.bytes_from(params.workspace);
  return workspace;
}

template <typename T>
void normalize(const GroupNormSiluCudaParams& params, const ChannelPart& part, const float* folded,
               cudaStream_t stream) {
  const int64_t images = params.norm.images(), total = params.norm.channels;
  const int width = pack_width<T>({part.x, params.y, folded}, {part.channels, part.first, total});
  const ChannelGrid grid = channel_grid(images, params.pixels, part.channels, width, kNormalizeUnroll,
                                        kLargeDevice * kNormalizeBlocksPerSm);
  if (grid.thread_blocks == 0) return;
  check_grid(grid, "group_norm_silu_cuda");
  const auto kernel = width == 1 ? normalize_kernel<T, 1> : normalize_kernel<T, kPackWidth<T>>;
  kernel<<<static_cast<unsigned>(grid.thread_blocks), kChannelThreads, 0, stream>>>(
      part, static_cast<T*>(params.y), folded, images, total, grid);
}

template <typename T>
void one_pass(const GroupNormSiluCudaParams& params, cudaStream_t stream) {
  constexpr const char* kWhere = "group_norm_silu_cuda";
  const auto [grid, block_channels, bytes] = one_pass_grid<T>(params);
  check_grid(grid, kWhere);
  const auto kernel = grid.width == 1 ? one_pass_kernel<T, 1> : one_pass_kernel<T, kPackWidth<T>>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kOnePassBytes),
             kWhere);
  kernel<<<static_cast<unsigned>(grid.thread_blocks), kChannelThreads, static_cast<size_t>(bytes), stream>>>(
      params, grid, block_channels);
}

}  // namespace

void fold_group_norm_cuda(const GroupNorm& norm, float* folded, void* stream) {
  launch_groups(fold_kernel, norm, static_cast<cudaStream_t>(stream), folded);
  check_cuda(cudaGetLastError(), "fold_group_norm_cuda");
}

int64_t group_norm_silu_cuda_workspace(const GroupNormSiluCudaParams& params) {
  return one_pass_fits(params) ? 0 : forward_workspace(params).bytes;
}

void group_norm_silu_cuda(const GroupNormSiluCudaParams& params, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (params.norm.images() == 0 || params.pixels == 0) return;
  if (one_pass_fits(params)) {
    with_dtype(params.dtype, [&](auto element) { one_pass<decltype(element)>(params, cuda_stream); });
  } else {
    const ForwardWorkspace workspace = forward_workspace(params);
    const auto parts = parts_of(params, nullptr, nullptr);
    GroupNorm norm = params.norm;
    if (!norm.statistics) {
      for (const ChannelPart& part : parts)
        channel_statistics_cuda(statistics_of(params, part, workspace), stream);
      norm.statistics = workspace.statistics;
    }
    fold_group_norm_cuda(norm, workspace.folded, stream);
    with_dtype(params.dtype, [&](auto element) {
      for (const ChannelPart& part : parts)
        normalize<decltype(element)>(params, part, workspace.folded, cuda_stream);
    });
  }
  check_cuda(cudaGetLastError(), "group_norm_silu_cuda");
}

}  // namespace vdm
