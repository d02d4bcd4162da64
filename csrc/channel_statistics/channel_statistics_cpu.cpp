// Two stages: shifted sums of blocks of pixels in float32, then their combination in double in the blocks'
// order.
#include <memory>
#include <vector>

#include "channel_statistics/channel_statistics.h"
#include "channel_statistics/channel_statistics_simd.h"
#include "common/pixel_blocks.h"

namespace vdm {
namespace {

// Combines the sums of one image, (blocks, 3, channels rounded up).
void combine(const PixelBlocks& blocks, const float* sums, Statistic* statistics) {
  const size_t channels = static_cast<size_t>(blocks.channels);
  const int64_t stride = blocks.sums_stride();
  const double share = 1.0 / static_cast<double>(blocks.pixels);
  const auto each_block = [&](const auto& body) {
    for (int64_t b = 0; b < blocks.per_image(); ++b) {
      const float* block = sums + 3 * b * stride;
      const int64_t pixels = std::min(kBlockPixels, blocks.pixels - b * kBlockPixels);
      body(static_cast<double>(pixels), block, block + stride, block + 2 * stride);
    }
  };
  std::vector<double> mean(channels), deviation(channels);
  each_block([&](double pixels, const float* shift, const float* sum, const float*) {
    for (size_t c = 0; c < channels; ++c) mean[c] += pixels * shift[c] + sum[c];
  });
  for (double& value : mean) value *= share;
  // sum (x - mean)^2 = sum (x - shift)^2 + d (2 sum (x - shift) + pixels d) with d = shift - mean
  each_block([&](double pixels, const float* shift, const float* sum, const float* squares) {
    for (size_t c = 0; c < channels; ++c) {
      const double d = shift[c] - mean[c];
      deviation[c] += squares[c] + d * (2.0 * sum[c] + pixels * d);
    }
  });
  for (size_t c = 0; c < channels; ++c) {
    const double variance = deviation[c] * share;
    statistics[2 * c] = static_cast<Statistic>(mean[c]);
    statistics[2 * c + 1] = static_cast<Statistic>(variance < 0.0 ? 0.0 : variance);  // NaN stays
  }
}

}  // namespace

void channel_statistics_cpu(const ChannelStatisticsParams& params) {
  const PixelBlocks blocks = {params.images, params.pixels, params.channels};
  const int64_t stride = blocks.sums_stride();
  const int64_t image_bytes = params.pixels * params.channels * size_of(params.dtype);
  const std::unique_ptr<float[]> sums(new float[static_cast<size_t>(blocks.count() * 3 * stride)]);
  const auto kernel = VDM_SIMD(sum_channels);
  blocks.each([&](const PixelBlock& block) {
    float* shift = sums.get() + block.index * 3 * stride;
    kernel(static_cast<const char*>(params.x) + block.image * image_bytes, params.dtype, params.channels,
           block.begin, block.end, {shift, shift + stride, shift + 2 * stride});
  });
  blocks.each_image([&](int64_t image) {
    combine(blocks, sums.get() + image * blocks.per_image() * 3 * stride,
            params.statistics + image * params.channels * 2);
  });
}

}  // namespace vdm
