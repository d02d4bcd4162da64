// Two stages, so that all threads work on a single image and the result does not depend on their number:
// shifted sums of blocks of pixels in float32, then their combination in double in the blocks' order.
#include <algorithm>
#include <memory>
#include <vector>

#include "channel_statistics/channel_statistics.h"
#include "channel_statistics/channel_statistics_simd.h"
#include "common/parallel.h"

namespace vdm {
namespace {

constexpr int64_t kBlockPixels = 256;         // float32 sums of this many are good to 1e-6
constexpr int64_t kGrain = int64_t{1} << 15;  // elements that pay for a thread
constexpr int64_t kMostLanes = 16;

// The partial sums of all blocks of one image.
struct BlockSums {
  const float* sums;  // (blocks, 3, stride)
  int64_t stride, pixels, channels;

  // Calls body(pixels of the block, its ShiftedSums).
  template <typename Body>
  void each(const Body& body) const {
    const float* block = sums;
    for (int64_t begin = 0; begin < pixels; begin += kBlockPixels, block += 3 * stride)
      body(static_cast<double>(std::min(kBlockPixels, pixels - begin)), block, block + stride,
           block + 2 * stride);
  }
};

void combine(const BlockSums& blocks, Statistic* statistics) {
  const size_t channels = static_cast<size_t>(blocks.channels);
  const double share = 1.0 / static_cast<double>(blocks.pixels);
  std::vector<double> mean(channels), squares(channels);
  blocks.each([&](double pixels, const float* shift, const float* sum, const float*) {
    for (size_t c = 0; c < channels; ++c) mean[c] += pixels * shift[c] + sum[c];
  });
  for (double& value : mean) value *= share;
  // sum (x - mean)^2 = sum (x - shift)^2 + d (2 sum (x - shift) + pixels d) with d = shift - mean
  blocks.each([&](double pixels, const float* shift, const float* sum, const float* square) {
    for (size_t c = 0; c < channels; ++c) {
      const double d = shift[c] - mean[c];
      squares[c] += square[c] + d * (2.0 * sum[c] + pixels * d);
    }
  });
  for (size_t c = 0; c < channels; ++c) {
    const double variance = squares[c] * share;
    statistics[2 * c] = static_cast<Statistic>(mean[c]);
    statistics[2 * c + 1] = static_cast<Statistic>(variance < 0.0 ? 0.0 : variance);  // NaN stays
  }
}

}  // namespace

void channel_statistics_cpu(const ChannelStatisticsParams& params) {
  const int64_t channels = params.channels, pixels = params.pixels;
  const int64_t stride = (channels + kMostLanes - 1) / kMostLanes * kMostLanes;
  const int64_t blocks = (pixels + kBlockPixels - 1) / kBlockPixels;
  const std::unique_ptr<float[]> sums(new float[static_cast<size_t>(params.images * blocks * 3 * stride)]);
  const int64_t image_bytes = pixels * channels * size_of(params.dtype);
  const auto kernel = VDM_SIMD(sum_channels);
  const int64_t block_elements = std::max<int64_t>(1, std::min(pixels, kBlockPixels) * channels);
  parallel_for(params.images * blocks, kGrain / block_elements, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i % blocks * kBlockPixels;
      float* block = sums.get() + i * 3 * stride;
      kernel(static_cast<const char*>(params.x) + i / blocks * image_bytes, params.dtype, channels, begin,
             std::min(pixels, begin + kBlockPixels), {block, block + stride, block + 2 * stride});
    }
  });
  const int64_t combined = std::max<int64_t>(1, blocks * channels);
  parallel_for(params.images, kGrain / combined, [&](int64_t first, int64_t last) {
    for (int64_t image = first; image < last; ++image)
      combine({sums.get() + image * blocks * 3 * stride, stride, pixels, channels},
              params.statistics + image * channels * 2);
  });
}

}  // namespace vdm
