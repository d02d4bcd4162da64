// The CPU kernels of temporal_attention_block and spatial_attention_block besides the attention itself. They
// work on the tokens of some pixels, (pixels, frames) rows of scratch that are kBlockRowPadding floats longer
// than whole panels, so that rows neither compete for the same places of the L1 cache nor need partial
// stores.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"
#include "common/types.h"

namespace vdm {

constexpr int64_t kBlockPanel = 32;
constexpr int64_t kBlockRowPadding = 16;

// Floats of a token's row in scratch.
constexpr int64_t block_row(int64_t channels) {
  return (channels + kBlockPanel - 1) / kBlockPanel * kBlockPanel + kBlockRowPadding;
}

// Some pixels of all frames of a video (frames, ..., channels).
struct PixelTokens {
  DType dtype;
  int64_t frames, pixels, channels;
  int64_t first, frame_step;  // where the first pixel of frame 0 is, and the next frame's; in elements

  int64_t tokens() const { return frames * pixels; }
};

struct TokenNorm {
  const float *weight, *bias;  // (channels,)
  float eps;
};

// A linear layer, as panels of kBlockPanel columns.
struct TokenLinear {
  const float* packed;
  int64_t in, out;
};

// copy = x in float32, normed = its LayerNorm over channels; rows of block_row(channels).
VDM_DECLARE_SIMD(normalize_tokens, (const PixelTokens& tokens, const void* x, const TokenNorm& norm,
                                    float* copy, float* normed))

// y = linear(tokens), rows of block_row(linear.out); meanwhile asks for x of the `next` pixels.
VDM_DECLARE_SIMD(project_tokens, (const TokenLinear& linear, const float* tokens, int64_t count, float* y,
                                  const PixelTokens& next, const void* x))

// out = residual + bias + linear(attended); bias has whole panels.
VDM_DECLARE_SIMD(project_attended, (const TokenLinear& linear, const float* bias, const float* attended,
                                    const float* residual, const PixelTokens& tokens, void* out, bool stream))

}  // namespace vdm
