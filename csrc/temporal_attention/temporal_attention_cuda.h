// temporal_attention on CUDA, for up to 64 frames and heads of up to 128 numbers.
#pragma once

#include <cstdint>

#include "temporal_attention/temporal_attention.h"

namespace vdm {

// The sequences, one to a pixel of a sample, are `groups` times as many that share bias and segments: all of
// them, or one sample each. The head of a group has `splits` warps (more where there are more than 16
// frames), which walk over its sequences. Rows are multiples of 16 bytes at addresses of such.
struct TemporalAttentionCudaParams {
  TemporalAttentionInput input;
  int64_t groups, splits;
  void* out;  // (batch, frames, pixels, heads, width) dtype
};

struct TemporalAttentionBackwardCudaParams {
  TemporalAttentionInput input;
  int64_t groups, splits;
  const void* dout;  // (batch, frames, pixels, heads, width) dtype
  void* dqkv;        // as qkv, or null
  float* partial;    // (groups, splits, heads, frames, frames), which add up to dbias, or null
};

void temporal_attention_cuda(const TemporalAttentionCudaParams& params, void* stream);
void temporal_attention_bwd_cuda(const TemporalAttentionBackwardCudaParams& params, void* stream);

}  // namespace vdm
