// Partial sums per (image, tile of its pixels, channel), and their combination in a fixed order: across the
// rows of a thread block, and across tiles by a second kernel. They are stored as pairs of floats.
#pragma once

#include "common/channel_access.cuh"

namespace vdm {

// Mean and sum of squared deviations (Chan, Golub and LeVeque 1983, Algorithms for computing the sample
// variance). The mean is relative to what the caller knows. They are stored without the count, which the tile
// gives.
struct Moments {
  using Result = double2;  // mean, biased variance
  float count, mean, m2;

  __device__ static Moments combine(const Moments& a, const Moments& b) {
    const float count = a.count + b.count;
    if (count == 0.0f) return a;
    const float delta = b.mean - a.mean, weight = b.count / count;
    return {count, fmaf(delta, weight, a.mean), fmaf(delta * delta, a.count * weight, a.m2 + b.m2)};
  }
  __device__ static Moments load(float2 stored, int64_t pixels) {
    return {static_cast<float>(pixels), stored.x, stored.y};
  }
  __device__ float2 stored() const { return {mean, m2}; }
  __device__ Result result(float base) const { return {double{base} + double{mean}, double{m2 / count}}; }
};

// Two plain sums.
struct SumPair {
  using Result = float2;
  float first, second;

  __device__ static SumPair combine(const SumPair& a, const SumPair& b) {
    return {a.first + b.first, a.second + b.second};
  }
  __device__ static SumPair load(float2 stored, int64_t) { return {stored.x, stored.y}; }
  __device__ float2 stored() const { return {first, second}; }
  __device__ Result result(float) const { return stored(); }
};

// Sums of deviations from the first value. As that is one of the values, squares - sum^2 / count loses no
// more than a factor of `count` of the precision, however far the mean is from zero and whatever the first
// value.
template <int kWidth>
struct ShiftedSums {
  float shift[kWidth] = {}, sum[kWidth] = {}, squares[kWidth] = {};

  __device__ void add(const float (&values)[kWidth]) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const float deviation = values[j] - shift[j];
      sum[j] += deviation;
      squares[j] = fmaf(deviation, deviation, squares[j]);
    }
  }

  // With means relative to `base`.
  __device__ void moments(float count, const float (&base)[kWidth], Moments (&result)[kWidth]) const {
    const float inverse = count > 0.0f ? 1.0f / count : 0.0f;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const float mean = sum[j] * inverse;
      const float m2 = fmaf(-sum[j], mean, squares[j]);
      result[j] = {count, (shift[j] - base[j]) + mean, m2 < 0.0f ? 0.0f : m2};  // NaN stays
    }
  }
};

template <typename Partial, int kWidth>
struct SharedPartials {
  Partial value[kWidth][kChannelThreads];
};

// Leaves in row 0 what all rows of each lane have found together. All threads of the block call it.
template <typename Partial, int kWidth>
__device__ void combine_rows(Partial (&own)[kWidth], SharedPartials<Partial, kWidth>& shared, int lanes,
                             int rows) {
  const int thread = static_cast<int>(threadIdx.x), row = thread / lanes;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) shared.value[j][thread] = own[j];
  for (int left = rows; left > 1;) {
    const int half = (left + 1) / 2;
    __syncthreads();
    if (row + half < left) {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        own[j] = Partial::combine(own[j], shared.value[j][thread + half * lanes]);
        shared.value[j][thread] = own[j];
      }
    }
    left = half;
  }
}

// Combines the tiles of every image and channel: partials (images, tiles, channels) to out, of which a row
// (one image) is out_channels long. A thread block has kCombineLanes channels of one image.
constexpr int kCombineLanes = 8;
constexpr int kCombineRows = kChannelThreads / kCombineLanes;

template <typename Partial>
__global__ void __launch_bounds__(kChannelThreads)
    combine_tiles_kernel(const float2* partials, Tiling tiling, int64_t channels, FirstPixel base,
                         typename Partial::Result* out, int64_t out_channels) {
  __shared__ SharedPartials<Partial, 1> shared;
  const int64_t blocks = ceil_div(channels, kCombineLanes), image = blockIdx.x / blocks;
  const int lane = static_cast<int>(threadIdx.x) % kCombineLanes;
  const int row = static_cast<int>(threadIdx.x) / kCombineLanes;
  const int64_t channel = blockIdx.x % blocks * kCombineLanes + lane, tiles = tiling.tiles();
  Partial own[1] = {};
  if (channel < channels) {
    const float2* const first = partials + image * tiles * channels + channel;
#pragma unroll 4
    for (int64_t tile = row; tile < tiles; tile += kCombineRows)
      own[0] = Partial::combine(own[0], Partial::load(first[tile * channels], tiling.pixels(tile)));
  }
  combine_rows(own, shared, kCombineLanes, kCombineRows);
  if (row == 0 && channel < channels)
    out[image * out_channels + channel] = own[0].result(base(image, channel));
}

template <typename Partial>
void combine_tiles(const float2* partials, const Tiling& tiling, int64_t images, int64_t channels,
                   const FirstPixel& base, typename Partial::Result* out, int64_t out_channels,
                   cudaStream_t stream) {
  const int64_t blocks = images * ceil_div(channels, kCombineLanes);
  if (blocks == 0) return;
  combine_tiles_kernel<Partial><<<static_cast<unsigned>(blocks), kChannelThreads, 0, stream>>>(
      partials, tiling, channels, base, out, out_channels);
}

}  // namespace vdm
