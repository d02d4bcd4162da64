// channel_statistics: mean and biased variance of every image and channel over its pixels.
#pragma once

#include <cstdint>

#include "common/group_norm.h"
#include "common/types.h"

namespace vdm {

struct ChannelStatisticsParams {
  const void* x;          // (images, pixels, channels) dtype
  Statistic* statistics;  // (images, channels, 2): mean, variance
  DType dtype;
  int64_t images, pixels, channels;
};

void channel_statistics_cpu(const ChannelStatisticsParams& params);

}  // namespace vdm
