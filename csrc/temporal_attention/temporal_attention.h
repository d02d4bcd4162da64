// temporal_attention: out_i = sum_j softmax_j(q_i . k_j / sqrt(width) + bias_ij) v_j over the frames j of i's
// segment, for every pixel and head.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace vdm {

struct TemporalAttentionInput {
  const void* qkv;             // (batch, frames, pixels, 3, heads, width) dtype
  const float* bias;           // (heads, frames, frames), or (batch, heads, frames, frames), or null
  const int64_t* segment_ids;  // (batch, frames), or null
  DType dtype;
  int64_t batch, frames, pixels, heads, width;
  bool bias_per_sample;
};

struct TemporalAttentionParams {
  TemporalAttentionInput input;
  void* out;  // (batch, frames, pixels, heads, width) dtype
};

struct TemporalAttentionBackwardParams {
  TemporalAttentionInput input;
  const void* dout;  // (batch, frames, pixels, heads, width) dtype
  void* dqkv;        // as qkv, or null
  float* dbias;      // as bias, or null
};

void temporal_attention_cpu(const TemporalAttentionParams& params);
void temporal_attention_bwd_cpu(const TemporalAttentionBackwardParams& params);

}  // namespace vdm
