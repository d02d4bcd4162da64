// spatial_attention_block: out = x + W_out attention(W_qkv layer_norm(x)) + b_out, over channels-last images.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace vdm {

struct SpatialAttentionBlockParams {
  const void* x;  // (images, height, width, heads * channels) dtype
  void* out;      // the same
  DType dtype;
  int64_t images, height, width, heads, channels;  // channels of a head
  const float *norm_weight, *norm_bias;            // (heads * channels,)
  const float *qkv_weight, *out_weight;            // packed by taps_pack_cpu as 1x1 convolutions
  const float* out_bias;                           // (heads * channels,), or null
  const float* bias_table;                         // (heads, 2 height - 1, 2 width - 1), or null
  float eps;
};

void spatial_attention_block_cpu(const SpatialAttentionBlockParams& params);

}  // namespace vdm
