// group_norm_silu on CUDA, forward and backward.
//
// Traffic of the forward pass with statistics: x is read once and y is written once, 16 bytes a thread and
// access. Without statistics one kernel does it all where a thread block's shared memory holds what its
// groups are normalized over; else x is read once more. The backward pass reads dout and x twice and writes
// dx once; its sums are combined in a fixed order. A pass over what another has just read walks its chunks
// from the last to the first, which are still in the L2 cache. What is per channel (folding, finalizing) is
// small, and computed in double.
#include <algorithm>
#include <array>

#include "channel_statistics/channel_statistics_cuda.h"
#include "common/activation.cuh"
#include "common/async_copy.cuh"
#include "common/partials.cuh"
#include "group_norm_silu/group_norm_silu_cuda.h"

namespace vdm {
namespace {

constexpr int64_t kLargeDevice = 132;  // multiprocessors

// The channels first, first + 1, ... of a concatenation of `total` channels lie in a tensor of their own.
struct Part {
  const void* x;  // (images, pixels, channels)
  void* dx;       // the same
  int64_t channels, first;
};

// --- Per group -------------------------------------------------------------------------------------------

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
__device__ double block_sum(double value) {
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
__device__ GroupMoments pool(const GroupNorm& norm, const GroupEntries& entries) {
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

// With k1 and k2 the means over the group of dx_hat = weight (1 + scale) dz and of dx_hat x_hat,
//     dx = rstd (dx_hat - k1 - x_hat k2),  x_hat = rstd (x - center - rest).
__global__ void __launch_bounds__(kMaxGroupThreads)
    finalize_kernel(GroupNorm norm, int64_t pixels, float2* sums, float* slopes) {
  const GroupEntries entries(norm, blockIdx.x);
  const GroupMoments moments = pool(norm, entries);
  const double rstd = moments.rstd, rest = moments.beyond_center();
  const int64_t plane = norm.images() * norm.channels;
  const int step = static_cast<int>(blockDim.x), begin = static_cast<int>(threadIdx.x);
  double k1 = 0.0, k2 = 0.0;
  for (int e = begin; e < entries.count; e += step) {
    const int64_t image = entries.image(e), channel = entries.channel(e), i = entries.index(e);
    const double weight = norm.weight[channel] * norm.factor(image, channel);
    const double dz = sums[i].x, dz_x_hat = rstd * (sums[i].y - rest * dz);
    k1 += weight * dz;
    k2 += weight * dz_x_hat;
    sums[i].y = static_cast<float>(dz_x_hat);
  }
  const double share = 1.0 / (static_cast<double>(entries.count) * static_cast<double>(pixels));
  k1 = block_sum(k1) * share;
  k2 = block_sum(k2) * share;
  for (int e = begin; e < entries.count; e += step) {
    slopes[entries.index(e)] = static_cast<float>(-rstd * rstd * k2);
    slopes[plane + entries.index(e)] = static_cast<float>(rstd * (rstd * k2 * rest - k1));
  }
}

// dweight and dbias: the thread block layout is that of combine_tiles_kernel, with images for tiles.
__global__ void __launch_bounds__(kChannelThreads)
    affine_gradient_kernel(GroupNorm norm, const float2* sums, float* dweight, float* dbias) {
  __shared__ SharedPartials<SumPair, 1> shared;
  const int lane = static_cast<int>(threadIdx.x) % kCombineLanes;
  const int row = static_cast<int>(threadIdx.x) / kCombineLanes;
  const int64_t channel = int64_t{blockIdx.x} * kCombineLanes + lane;
  SumPair own[1] = {};
  if (channel < norm.channels) {
    for (int64_t image = row; image < norm.images(); image += kCombineRows) {
      const float2 sum = sums[image * norm.channels + channel];
      const float scaled = static_cast<float>(norm.factor(image, channel));
      own[0] = {fmaf(scaled, sum.y, own[0].first), fmaf(scaled, sum.x, own[0].second)};
    }
  }
  combine_rows(own, shared, kCombineLanes, kCombineRows);
  if (row > 0 || channel >= norm.channels) return;
  dweight[channel] = own[0].first;
  dbias[channel] = own[0].second;
}

// dscale and dshift: one thread has one channel of a video or, where a modulation is per frame, of a frame.
__global__ void __launch_bounds__(kChannelThreads)
    modulation_gradient_kernel(GroupNorm norm, const float2* sums, float* dscale, float* dshift) {
  const int64_t i = int64_t{blockIdx.x} * kChannelThreads + threadIdx.x;
  const int64_t rows = norm.batch * norm.modulation_frames;
  if (i >= rows * norm.channels) return;
  const int64_t row = i / norm.channels, channel = i % norm.channels, images = norm.images() / rows;
  float dz = 0.0f, dz_x_hat = 0.0f;
  for (int64_t image = row * images; image < (row + 1) * images; ++image) {
    dz += sums[image * norm.channels + channel].x;
    dz_x_hat += sums[image * norm.channels + channel].y;
  }
  if (dscale) dscale[i] = fmaf(norm.weight[channel], dz_x_hat, norm.bias[channel] * dz);
  if (dshift) dshift[i] = dz;
}

// --- Per element -----------------------------------------------------------------------------------------

constexpr int kNormalizeBlocksPerSm = 3;
constexpr int kNormalizeUnroll = 4;
constexpr int kBackwardBlocksPerSm = 2;
constexpr int kBackwardUnroll = 2;

__device__ inline ChannelPosition backwards(const ChannelGrid& grid) {
  return channel_position(grid, grid.thread_blocks - 1 - blockIdx.x, static_cast<int>(threadIdx.x));
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kChannelThreads, kNormalizeBlocksPerSm)
    normalize_kernel(Part part, T* y, const float* folded, int64_t images, int64_t total, ChannelGrid grid) {
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

// What the two passes of the backward pass over the elements read.
struct Gradient {
  const void* dout;     // (images, pixels, total)
  const float* folded;  // (3, images, total)
  int64_t images, total;
};

// Calls body(j, dout, x) for every channel j of every pixel of this thread, and then pixel_done(offset in x).
template <typename T, int kWidth, typename Body, typename Done>
__device__ void for_each_gradient(const Part& part, const Gradient& gradient, const ChannelGrid& grid,
                                  const ChannelPosition& at, const Body& body, const Done& pixel_done) {
  const int64_t pixel = at.image * grid.pixels + at.begin + at.row;
  int64_t offset = pixel * part.channels + at.channel;
  const T* const x = static_cast<const T*>(part.x);
  const T* dout = static_cast<const T*>(gradient.dout) + pixel * gradient.total + part.first + at.channel;
  const int64_t x_stride = grid.rows * part.channels, dout_stride = grid.rows * gradient.total;
  for (int left = position_count(grid, at); left > 0; left -= kBackwardUnroll) {
    Pack<T, kWidth> x_packs[kBackwardUnroll], dout_packs[kBackwardUnroll];
#pragma unroll
    for (int u = 0; u < kBackwardUnroll; ++u) {
      if (u >= left) break;
      x_packs[u] = load_pack<T, kWidth>(x + offset + u * x_stride);
      dout_packs[u] = load_pack<T, kWidth>(dout + u * dout_stride);
    }
#pragma unroll
    for (int u = 0; u < kBackwardUnroll; ++u) {
      if (u >= left) break;
      float xs[kWidth], douts[kWidth];
      unpack(x_packs[u], xs);
      unpack(dout_packs[u], douts);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) body(j, douts[j], xs[j]);
      pixel_done(offset + u * x_stride);
    }
    offset += kBackwardUnroll * x_stride;
    dout += kBackwardUnroll * dout_stride;
  }
}

// The sums of dz = dout silu'(z) and of dz (x - center) over the pixels of a chunk.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kChannelThreads, kBackwardBlocksPerSm)
    sums_kernel(Part part, Gradient gradient, ChannelGrid grid, float2* out) {
  __shared__ SharedPartials<SumPair, kWidth> shared;
  const ChannelPosition at = channel_position(grid, blockIdx.x, static_cast<int>(threadIdx.x));
  const int64_t channel = part.first + at.channel;
  SumPair sums[kWidth] = {};
  if (at.active) {
    const Fold<kWidth> fold(gradient.folded, gradient.images, gradient.total,
                            at.image * gradient.total + channel);
    for_each_gradient<T, kWidth>(
        part, gradient, grid, at,
        [&](int j, float dout, float x) {
          const float dz = dout * silu_slope(fold(j, x));
          sums[j].first += dz;
          sums[j].second = fmaf(dz, x - fold.center[j], sums[j].second);
        },
        [](int64_t) {});
  }
  combine_rows(sums, shared, grid.lanes, grid.rows);
  if (at.row > 0 || !at.active) return;
  // The result has rows of all channels, the chunks to be combined have rows of this part's.
  float2* const row = grid.chunks == 1
                          ? out + at.image * gradient.total + channel
                          : out + (at.image * grid.chunks + at.chunk) * part.channels + at.channel;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) row[j] = sums[j].stored();
}

// dx = gain dz + slopes[0] (x - center) + slopes[1]
template <typename T, int kWidth>
__global__ void __launch_bounds__(kChannelThreads, kBackwardBlocksPerSm)
    dx_kernel(Part part, Gradient gradient, ChannelGrid grid, const float* slopes) {
  const ChannelPosition at = backwards(grid);
  if (position_count(grid, at) == 0) return;
  const int64_t index = at.image * gradient.total + part.first + at.channel;
  const Fold<kWidth> fold(gradient.folded, gradient.images, gradient.total, index);
  float slope[kWidth], intercept[kWidth], values[kWidth];
  load_channels(slopes + index, slope);
  load_channels(slopes + gradient.images * gradient.total + index, intercept);
  T* const dx = static_cast<T*>(part.dx);
  for_each_gradient<T, kWidth>(
      part, gradient, grid, at,
      [&](int j, float dout, float x) {
        const float dz = dout * silu_slope(fold(j, x));
        values[j] = fmaf(fold.gain[j], dz, fmaf(slope[j], x - fold.center[j], intercept[j]));
      },
      [&](int64_t offset) { store_pack(dx + offset, values); });
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

// --- Launchers -------------------------------------------------------------------------------------------

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

struct ForwardWorkspace {
  float* folded;          // (3, images, channels)
  Statistic* statistics;  // (images, channels, 2), where they are not given
  char* chunks;
  int64_t bytes;
};

struct BackwardWorkspace {
  float* folded;   // (3, images, channels)
  float2* sums;    // (images, channels)
  float* slopes;   // (2, images, channels)
  float2* chunks;  // (images, chunks, channels of a part)
  int64_t bytes;
};

template <typename Params>
std::array<Part, 2> parts_of(const Params& params, void* dx, void* dx2) {
  return {Part{params.x, dx, params.x_channels, 0},
          Part{params.x2, dx2, params.norm.channels - params.x_channels, params.x_channels}};
}

ChannelStatisticsCudaParams statistics_of(const GroupNormSiluCudaParams& params, const Part& part,
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
    for (const Part& part : parts_of(params, nullptr, nullptr))
      bytes = std::max(bytes, channel_statistics_cuda_workspace(statistics_of(params, part, workspace)));
    workspace.chunks = arrays.take<char>(bytes);
  }
  workspace.bytes = arrays.bytes_from(params.workspace);
  return workspace;
}

template <typename T>
void normalize(const GroupNormSiluCudaParams& params, const Part& part, const float* folded,
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

template <typename T>
ChannelGrid backward_grid(const GroupNormSiluBackwardCudaParams& params, const Part& part) {
  const int width = pack_width<T>({params.dout, part.x, part.dx, params.workspace},
                                  {part.channels, part.first, params.norm.channels});
  return channel_grid(params.norm.images(), params.pixels, part.channels, width, kBackwardUnroll,
                      kLargeDevice * kBackwardBlocksPerSm);
}

BackwardWorkspace backward_workspace(const GroupNormSiluBackwardCudaParams& params) {
  const int64_t size = params.norm.images() * params.norm.channels;
  int64_t chunks = 0;  // the parts take turns
  with_dtype(params.dtype, [&](auto element) {
    for (const Part& part : parts_of(params, params.dx, params.dx2))
      chunks = std::max(chunks, backward_grid<decltype(element)>(params, part).chunks * part.channels);
  });
  Workspace arrays(params.workspace);
  BackwardWorkspace workspace;
  workspace.folded = arrays.take<float>(3 * size);
  workspace.sums = arrays.take<float2>(size);
  workspace.slopes = arrays.take<float>(2 * size);
  workspace.chunks = arrays.take<float2>(params.norm.images() * chunks);
  workspace.bytes = arrays.bytes_from(params.workspace);
  return workspace;
}

template <typename T>
void sums(const GroupNormSiluBackwardCudaParams& params, const Part& part, const Gradient& gradient,
          const BackwardWorkspace& workspace, cudaStream_t stream) {
  const ChannelGrid grid = backward_grid<T>(params, part);
  if (grid.thread_blocks == 0) return;
  check_grid(grid, "group_norm_silu_bwd_cuda");
  const auto kernel = grid.width == 1 ? sums_kernel<T, 1> : sums_kernel<T, kPackWidth<T>>;
  kernel<<<static_cast<unsigned>(grid.thread_blocks), kChannelThreads, 0, stream>>>(
      part, gradient, grid, grid.chunks == 1 ? workspace.sums : workspace.chunks);
  if (grid.chunks > 1)
    combine_tiles<SumPair>(workspace.chunks, chunk_tiling(grid), gradient.images, part.channels, {},
                           workspace.sums + part.first, gradient.total, stream);
}

template <typename T>
void dx(const GroupNormSiluBackwardCudaParams& params, const Part& part, const Gradient& gradient,
        const BackwardWorkspace& workspace, cudaStream_t stream) {
  const ChannelGrid grid = backward_grid<T>(params, part);
  if (grid.thread_blocks == 0 || !part.dx) return;
  const auto kernel = grid.width == 1 ? dx_kernel<T, 1> : dx_kernel<T, kPackWidth<T>>;
  kernel<<<static_cast<unsigned>(grid.thread_blocks), kChannelThreads, 0, stream>>>(part, gradient, grid,
                                                                                    workspace.slopes);
}

// dweight, dbias, dscale and dshift
void parameter_gradients(const GroupNormSiluBackwardCudaParams& params, const float2* sums,
                         cudaStream_t stream) {
  const GroupNorm& norm = params.norm;
  affine_gradient_kernel<<<static_cast<unsigned>(ceil_div(norm.channels, kCombineLanes)), kChannelThreads, 0,
                           stream>>>(norm, sums, params.dweight, params.dbias);
  if (!params.dscale && !params.dshift) return;
  const int64_t size = norm.batch * norm.modulation_frames * norm.channels;
  modulation_gradient_kernel<<<static_cast<unsigned>(ceil_div(size, kChannelThreads)), kChannelThreads, 0,
                               stream>>>(norm, sums, params.dscale, params.dshift);
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
      for (const Part& part : parts) channel_statistics_cuda(statistics_of(params, part, workspace), stream);
      norm.statistics = workspace.statistics;
    }
    fold_group_norm_cuda(norm, workspace.folded, stream);
    with_dtype(params.dtype, [&](auto element) {
      for (const Part& part : parts)
        normalize<decltype(element)>(params, part, workspace.folded, cuda_stream);
    });
  }
  check_cuda(cudaGetLastError(), "group_norm_silu_cuda");
}

int64_t group_norm_silu_bwd_cuda_workspace(const GroupNormSiluBackwardCudaParams& params) {
  return backward_workspace(params).bytes;
}

void group_norm_silu_bwd_cuda(const GroupNormSiluBackwardCudaParams& params, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (params.norm.images() == 0 || params.pixels == 0) return;
  const BackwardWorkspace workspace = backward_workspace(params);
  const auto parts = parts_of(params, params.dx, params.dx2);
  const Gradient gradient{params.dout, workspace.folded, params.norm.images(), params.norm.channels};
  fold_group_norm_cuda(params.norm, workspace.folded, stream);
  with_dtype(params.dtype, [&](auto element) {
    using T = decltype(element);
    for (const Part& part : parts) sums<T>(params, part, gradient, workspace, cuda_stream);
    launch_groups(finalize_kernel, params.norm, cuda_stream, params.pixels, workspace.sums, workspace.slopes);
    for (const Part& part : parts) dx<T>(params, part, gradient, workspace, cuda_stream);
    parameter_gradients(params, workspace.sums, cuda_stream);
  });
  check_cuda(cudaGetLastError(), "group_norm_silu_bwd_cuda");
}

}  // namespace vdm
