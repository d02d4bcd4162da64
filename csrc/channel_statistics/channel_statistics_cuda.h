// channel_statistics on CUDA: mean and biased variance of every image and channel over the pixels.
#pragma once

#include <cstdint>

#include "common/group_norm.h"
#include "common/types.h"

namespace vdm {

struct ChannelStatisticsCudaParams {
  const void* x;  // (images, pixels, channels) dtype
  Statistic*
      statistics;  // (images, row_channels, 2), of which the first `channels` of each image are written
  DType dtype;
  int64_t images, pixels, channels, row_channels;
  void* workspace;  // channel_statistics_cuda_workspace bytes
};

int64_t channel_statistics_cuda_workspace(const ChannelStatisticsCudaParams& params);
void channel_statistics_cuda(const ChannelStatisticsCudaParams& params, void* stream);

}  // namespace vdm
