// group_norm_silu: a = silu((x - center) gain + offset), see common/group_norm.h, and its gradients.
#pragma once

#include <cstdint>

#include "common/group_norm.h"
#include "common/types.h"

namespace vdm {

struct GroupNormSiluParams {
  const void* x;  // (images, pixels, channels) dtype
  void* a;        // (images, pixels, channels) dtype
  DType dtype;
  int64_t pixels;
  GroupNorm norm;
};

// x may be the first of two inputs, whose channels together are those of `da` and of the norm.
struct GroupNormSiluBackwardParams {
  const void* da;  // (images, pixels, channels) da_dtype
  const void* x;   // (images, pixels, x_channels) dtype
  const void* x2;  // (images, pixels, channels - x_channels) dtype, or null where there are none
  void* dx;        // as x, or null
  void* dx2;       // as x2, or null
  float* dweight;  // (channels,)
  float* dbias;    // (channels,)
  float* dscale;   // (batch, modulation_frames, channels), or null
  float* dshift;   // (batch, modulation_frames, channels), or null
  DType da_dtype, dtype;
  int64_t pixels, x_channels;
  GroupNorm norm;
};

void group_norm_silu_cpu(const GroupNormSiluParams& params);
void group_norm_silu_bwd_cpu(const GroupNormSiluBackwardParams& params);

}  // namespace vdm
