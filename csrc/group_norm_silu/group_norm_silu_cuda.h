// group_norm_silu on CUDA. The pointers of a GroupNorm are to the device here.
#pragma once

#include <cstdint>

#include "common/group_norm.h"
#include "common/types.h"

namespace vdm {

// y = silu((x - center) gain + offset), of the concatenation of x and x2.
struct GroupNormSiluCudaParams {
  const void* x;   // (images, pixels, x_channels) dtype
  const void* x2;  // (images, pixels, norm.channels - x_channels) dtype, or null where there are none
  void* y;         // (images, pixels, norm.channels) dtype
  DType dtype;
  int64_t pixels, x_channels;
  GroupNorm norm;   // statistics may be null: they are computed, or not needed, see group_norm_silu_cuda.cu
  void* workspace;  // group_norm_silu_cuda_workspace bytes
};
int64_t group_norm_silu_cuda_workspace(const GroupNormSiluCudaParams& params);
void group_norm_silu_cuda(const GroupNormSiluCudaParams& params, void* stream);

struct GroupNormSiluBackwardCudaParams {
  const void* dout;  // (images, pixels, norm.channels) dtype
  const void* x;     // (images, pixels, x_channels) dtype
  const void* x2;    // (images, pixels, norm.channels - x_channels) dtype, or null where there are none
  void* dx;          // as x, or null
  void* dx2;         // as x2, or null
  float* dweight;    // (channels,), or null
  float* dbias;      // (channels,), or null
  float* dscale;     // (batch, modulation_frames, channels), or null
  float* dshift;     // (batch, modulation_frames, channels), or null
  DType dtype;
  int64_t pixels, x_channels;
  GroupNorm norm;
  void* workspace;  // group_norm_silu_bwd_cuda_workspace bytes
};
int64_t group_norm_silu_bwd_cuda_workspace(const GroupNormSiluBackwardCudaParams& params);
void group_norm_silu_bwd_cuda(const GroupNormSiluBackwardCudaParams& params, void* stream);

// Writes center, gain and offset: (3, images, channels).
void fold_group_norm_cuda(const GroupNorm& norm, float* folded, void* stream);

}  // namespace vdm
