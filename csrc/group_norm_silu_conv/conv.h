// What a convolution on the CPU reads and writes, whatever its algorithm. Videos are channels-last; `images`
// are all frames of all videos.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace vdm {

// silu((x - center) gain + offset) of cat[x, x2], or cat[x, x2] itself where center is null.
struct ConvInput {
  const void* x;   // (images, height, width, channels1)
  const void* x2;  // (images, height, width, channels - channels1); null where that is empty
  DType dtype;
  int64_t images, height, width, channels1, channels;
  const float *center, *gain, *offset;  // (images, channels)
};

struct ConvOutput {
  void* y;               // (images, height, width, channels)
  const void* residual;  // as y, or null
  const float* bias;     // (channels,), or null
  DType dtype;
  int64_t images, height, width, channels;
  bool stream;  // write around the caches, where whole lines are written
};

// Mean and sum of squared deviations of one channel over some pixels.
struct ConvMoments {
  double mean, m2;
};

}  // namespace vdm
