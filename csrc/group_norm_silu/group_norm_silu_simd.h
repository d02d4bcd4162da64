// The CPU kernels of group_norm_silu, for some pixels of one image.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"
#include "common/types.h"

namespace vdm {

// Pixels [begin, end) of one image; u = (x - center) gain + offset is what SiLU is applied to.
struct NormedPixels {
  const void* x;  // (pixels, channels) dtype
  DType dtype;
  int64_t channels;
  const float* center;  // (channels,), as gain and offset
  const float* gain;
  const float* offset;
  int64_t begin, end;
};

// The gradient da of silu(u), or dz of u, in which these channels may be some of more.
struct ActivationGradient {
  const void* data;  // (pixels, channels) dtype
  DType dtype;
  int64_t channels, first_channel;
  bool of_u;
};

// Where pixels are written, (pixels, channels) dtype of the input. With `stream`, around the caches: every
// pixel is then a multiple of 64 bytes, and so is the address.
struct PixelOutput {
  void* data;
  bool stream;
};

VDM_DECLARE_SIMD(group_norm_silu, (const NormedPixels& pixels, const PixelOutput& a))

// With dz = da silu'(u): the sums of dz and of dz (x - center) for each channel. They have room for the last
// vector's lanes.
VDM_DECLARE_SIMD(group_norm_silu_bwd_sums, (const NormedPixels& pixels, const ActivationGradient& gradient,
                                            float* dz_sum, float* dz_x_sum))

// dx = gain dz + slope (x - center) + constant, with (channels,) values of slope and constant.
VDM_DECLARE_SIMD(group_norm_silu_bwd_dx, (const NormedPixels& pixels, const ActivationGradient& gradient,
                                          const float* slope, const float* constant, const PixelOutput& dx))

}  // namespace vdm
