// spatial_attention: out_i = sum_j softmax_j(q_i . k_j / sqrt(channels) + b_ij) v_j over the pixels j of i's
// image, with b_ij = bias_table[head, y_i - y_j + height - 1, x_i - x_j + width - 1].
#pragma once

#include <cstdint>

#include "common/types.h"

namespace vdm {

struct SpatialAttentionInput {
  const void* qkv;          // (images, height, width, 3, heads, channels) dtype
  const float* bias_table;  // (heads, 2 height - 1, 2 width - 1), or null
  DType dtype;
  int64_t images, height, width, heads, channels;  // none is 0
  int64_t qkv_row, out_row;  // elements from pixel to pixel of qkv and of out; where they have no gaps:
                             // 3 heads channels, heads channels
};

struct SpatialAttentionParams {
  SpatialAttentionInput input;
  void* out;  // (images, height, width, heads, channels) dtype
};

struct SpatialAttentionBackwardParams {
  SpatialAttentionInput input;
  const void* dout;    // as out
  void* dqkv;          // as qkv, or null
  float* dbias_table;  // as bias_table, or null
};

void spatial_attention_cpu(const SpatialAttentionParams& params);
void spatial_attention_bwd_cpu(const SpatialAttentionBackwardParams& params);

}  // namespace vdm
