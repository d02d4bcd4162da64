// The CPU kernels of temporal_attention: one segment of one sample, for some of its pixels and heads.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"
#include "common/types.h"

namespace vdm {

// Frames are padded to a multiple of this in packed tables; the width of a head likewise in scratch.
constexpr int64_t kAttentionPadding = 16;

// Frames that attend to each other.
struct AttentionSegment {
  int64_t frames, padded;
  const int64_t* qkv;  // (padded,): where each frame is in qkv, in elements; the last frame repeated
  const int64_t* out;  // the same in out and dout
  const float* bias;   // (heads, frames, padded), of key j and query i; null where there is none
};

struct AttentionTask {
  const void* qkv;
  DType dtype;
  int64_t heads, width;
  AttentionSegment segment;
  int64_t first_pixel, last_pixel, first_head, last_head;
  bool ahead;   // the next pixel is fetched meanwhile
  bool stream;  // outputs are written around the caches: rows are whole cache lines then
};

// For one thread, 64-byte aligned.
struct AttentionScratch {
  float *k, *v, *out;       // (frames, padded width)
  float *q, *dout;          // the same, for the backward pass
  float *queries, *douts;   // (padded width, padded frames): q and dout transposed
  float *scores, *dscores;  // (frames, padded frames): of key j and query i
  const float* zeros;       // (padded frames,)
};

VDM_DECLARE_SIMD(attend, (const AttentionTask& task, void* out, const AttentionScratch& scratch))

// dqkv may be null; so may dbias, which is as the segment's bias and is added to.
VDM_DECLARE_SIMD(attend_bwd, (const AttentionTask& task, const void* dout, void* dqkv, float* dbias,
                              const AttentionScratch& scratch))

}  // namespace vdm
