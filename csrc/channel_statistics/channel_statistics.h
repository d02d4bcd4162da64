// channel_statistics: mean and biased variance of every image and channel over its pixels.
#pragma once

#include <cstdint>
#include <memory>

#include "common/group_norm.h"
#include "common/pixel_blocks.h"
#include "common/types.h"

namespace vdm {

struct ChannelStatisticsParams {
  const void* x;          // (images, pixels, channels) dtype
  Statistic* statistics;  // (images, channels, 2): mean, variance
  DType dtype;
  int64_t images, pixels, channels;
};

void channel_statistics_cpu(const ChannelStatisticsParams& params);

// Its two stages, for a caller with other work in between: shifted sums of blocks of pixels in float32, then
// their combination in double in the blocks' order.
class ChannelSums {
 public:
  ChannelSums(const void* x, DType dtype, const PixelBlocks& blocks);

  const PixelBlocks& blocks() const { return blocks_; }
  // Where a block begins; one block after the last is where x ends.
  const char* address(int64_t block) const;
  void add(int64_t block);
  // After all blocks of the image: (channels, 2).
  void finish(int64_t image, Statistic* statistics) const;

 private:
  const void* x_;
  DType dtype_;
  PixelBlocks blocks_;
  std::unique_ptr<float[]> sums_;  // (blocks, 3, blocks_.sums_stride())
};

}  // namespace vdm
