// SiLU of a folded GroupNorm (common/group_norm.h), and its derivative.
#pragma once

#include "common/channel_access.cuh"

namespace vdm {

__device__ inline float sigmoid(float z) { return __fdividef(1.0f, 1.0f + __expf(-z)); }

__device__ inline float silu(float z) { return z * sigmoid(z); }

// d silu(z) / dz
__device__ inline float silu_slope(float z) {
  const float s = sigmoid(z);
  return s * fmaf(z, 1.0f - s, 1.0f);
}

// The folded norm of a thread's channels.
template <int kWidth>
struct Fold {
  float center[kWidth], gain[kWidth], offset[kWidth];

  // `folded` is (3, rows, channels); `index` counts (row, channel).
  __device__ Fold(const float* folded, int64_t rows, int64_t channels, int64_t index) {
    load_channels(folded + index, center);
    load_channels(folded + rows * channels + index, gain);
    load_channels(folded + 2 * rows * channels + index, offset);
  }
  __device__ float operator()(int j, float x) const { return fmaf(x - center[j], gain[j], offset[j]); }
};

}  // namespace vdm
