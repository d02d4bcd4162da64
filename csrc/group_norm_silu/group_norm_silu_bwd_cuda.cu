// The backward pass of group_norm_silu on CUDA: dout and x are read twice and dx is written once. Its sums
// are combined in a fixed order.
#include <algorithm>

#include "common/activation.cuh"
#include "group_norm_silu/group_norm_silu_cuda.cuh"

namespace vdm {
namespace {

// --- Per group ------------------------------------------------------------------------------------------

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
  if (dweight) dweight[channel] = own[0].first;
  if (dbias) dbias[channel] = own[0].second;
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

// --- Per element ----------------------------------------------------------------------------------------

constexpr int kBackwardBlocksPerSm = 2;
constexpr int kBackwardUnroll = 2;

// What the two passes of the backward pass over the elements read.
struct Gradient {
  const void* dout;     // (images, pixels, total)
  const float* folded;  // (3, images, total)
  int64_t images, total;
};

// Calls body(j, dout, x) for every channel j of every pixel of this thread, and then pixel_done(offset in x).
template <typename T, int kWidth, typename Body, typename Done>
__device__ void for_each_gradient(const ChannelPart& part, const Gradient& gradient, const ChannelGrid& grid,
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
    sums_kernel(ChannelPart part, Gradient gradient, ChannelGrid grid, float2* out) {
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
    dx_kernel(ChannelPart part, Gradient gradient, ChannelGrid grid, const float* slopes) {
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

// --- Launchers ------------------------------------------------------------------------------------------

struct BackwardWorkspace {
  float* folded;   // (3, images, channels)
  float2* sums;    // (images, channels)
  float* slopes;   // (2, images, channels)
  float2* chunks;  // (images, chunks, channels of a part)
  int64_t bytes;
};

template <typename T>
ChannelGrid backward_grid(const GroupNormSiluBackwardCudaParams& params, const ChannelPart& part) {
  const int width = pack_width<T>({params.dout, part.x, part.dx, params.workspace},
                                  {part.channels, part.first, params.norm.channels});
  return channel_grid(params.norm.images(), params.pixels, part.channels, width, kBackwardUnroll,
                      kLargeDevice * kBackwardBlocksPerSm);
}

BackwardWorkspace backward_workspace(const GroupNormSiluBackwardCudaParams& params) {
  const int64_t size = params.norm.images() * params.norm.channels;
  int64_t chunks = 0;  // the parts take turns
  with_dtype(params.dtype, [&](auto element) {
    for (const ChannelPart& part : parts_of(params, params.dx, params.dx2))
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
void sums(const GroupNormSiluBackwardCudaParams& params, const ChannelPart& part, const Gradient& gradient,
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
void dx(const GroupNormSiluBackwardCudaParams& params, const ChannelPart& part, const Gradient& gradient,
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
    for (const ChannelPart& part : parts) sums<T>(params, part, gradient, workspace, cuda_stream);
    launch_groups(finalize_kernel, params.norm, cuda_stream, params.pixels, workspace.sums, workspace.slopes);
    for (const ChannelPart& part : parts) dx<T>(params, part, gradient, workspace, cuda_stream);
    parameter_gradients(params, workspace.sums, cuda_stream);
  });
  check_cuda(cudaGetLastError(), "group_norm_silu_bwd_cuda");
}

}  // namespace vdm
