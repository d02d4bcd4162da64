// temporal_attention_block: out = x + W_out attention(W_qkv layer_norm(x)) + b_out, over channels-last video.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace vdm {

struct TemporalAttentionBlockParams {
  const void* x;  // (batch, frames, pixels, channels) dtype, channels = heads * width
  void* out;      // the same
  DType dtype;
  int64_t batch, frames, pixels, heads, width;
  const float *norm_weight, *norm_bias;  // (channels,)
  const float *qkv_weight, *out_weight;  // packed by taps_pack_cpu as 1x1 convolutions
  const float* out_bias;                 // (channels,), or null
  const float* bias;  // (heads, frames, frames), or (batch, heads, frames, frames), or null
  bool bias_per_sample;
  const int64_t* segment_ids;  // (batch, frames), or null
  float eps;
};

void temporal_attention_block_cpu(const TemporalAttentionBlockParams& params);

}  // namespace vdm
