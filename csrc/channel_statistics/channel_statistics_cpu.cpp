#include <vector>

#include "channel_statistics/channel_statistics.h"
#include "channel_statistics/channel_statistics_simd.h"

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

ChannelSums::ChannelSums(const void* x, DType dtype, const PixelBlocks& blocks)
    : x_(x),
      dtype_(dtype),
      blocks_(blocks),
      sums_(new float[static_cast<size_t>(blocks.count() * 3 * blocks.sums_stride())]) {}

const char* ChannelSums::address(int64_t block) const {
  const int64_t pixel = block / blocks_.per_image() * blocks_.pixels + blocks_.at(block).begin;
  return static_cast<const char*>(x_) + pixel * blocks_.channels * size_of(dtype_);
}

void ChannelSums::add(int64_t block) {
  const PixelBlock pixels = blocks_.at(block);
  const int64_t stride = blocks_.sums_stride();
  float* const shift = sums_.get() + block * 3 * stride;
  VDM_SIMD(sum_channels)
  (address(pixels.image * blocks_.per_image()), dtype_, blocks_.channels, pixels.begin, pixels.end,
   {shift, shift + stride, shift + 2 * stride});
}

void ChannelSums::finish(int64_t image, Statistic* statistics) const {
  combine(blocks_, sums_.get() + image * blocks_.per_image() * 3 * blocks_.sums_stride(), statistics);
}

void channel_statistics_cpu(const ChannelStatisticsParams& params) {
  ChannelSums sums(params.x, params.dtype, {params.images, params.pixels, params.channels});
  sums.blocks().each([&](const PixelBlock& block) { sums.add(block.index); });
  sums.blocks().each_image(
      [&](int64_t image) { sums.finish(image, params.statistics + image * params.channels * 2); });
}

}  // namespace vdm
