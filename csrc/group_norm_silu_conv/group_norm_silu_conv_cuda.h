// group_norm_silu_conv on CUDA: the fused 3x3 convolution of 16-bit types. Everything else that the op can be
// asked for is made of group_norm_silu's kernels and cuDNN, in Python.
#pragma once

#include <cstdint>

#include "common/group_norm.h"
#include "common/types.h"

namespace vdm {

struct ConvWeightStrides {
  int64_t out, channel, row, column;  // in elements
};

// y = conv(silu((x - center) gain + offset)) + bias + residual, of the concatenation of x and x2, without
// stride or upsampling. All channel counts are multiples of 8 and all addresses of 16 bytes.
struct FusedConvCudaParams {
  const void* x;          // (images, height, width, x_channels) dtype, bfloat16 or float16
  const void* x2;         // (images, height, width, norm.channels - x_channels) dtype, or null
  const void* weight;     // (out_channels, norm.channels, 3, 3) dtype, of any strides
  const void* bias;       // (out_channels,) dtype, or null
  const void* residual;   // like y, or null
  void* y;                // (images, height, width, out_channels) dtype
  Statistic* statistics;  // (images, out_channels, 2) of y, or null
  DType dtype;
  int64_t height, width, x_channels, out_channels;
  ConvWeightStrides weight_strides;
  GroupNorm norm;
  void* workspace;  // fused_conv_cuda_workspace bytes
};
int64_t fused_conv_cuda_workspace(const FusedConvCudaParams& params);
void fused_conv_cuda(const FusedConvCudaParams& params, void* stream);

}  // namespace vdm
