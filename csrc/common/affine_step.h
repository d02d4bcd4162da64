// One sampler step as a single pass over memory: each input is read once, the output is written once.
//
//     xhat = z_weight z + prediction_weight prediction + uncond_weight uncond
//     out  = xhat + noise_scale noise                                                   limit = 0
//     out  = z_scale z + x_scale clip(xhat, -limit, limit) + noise_scale noise          limit > 0
//
// Without a limit the launcher folds z_scale and x_scale into the three weights. The noise is made in
// registers.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"
#include "common/step.h"

namespace vdm {

// One sample.
struct AffineStep {
  const void* z;           // (n,) z_dtype
  const void* prediction;  // (n,) prediction_dtype
  const void* uncond;      // (n,) prediction_dtype, or null
  void* out;               // (n,) z_dtype
  DType z_dtype, prediction_dtype;
  float z_weight, prediction_weight, uncond_weight;
  float z_scale, x_scale, limit;
  float noise_scale;  // 0: no noise is made
  int64_t seed, draw;
  bool stream;  // write around the caches
};

// The gradients; the clip passes the gradient where |xhat| <= limit.
//
//     dxhat = limit > 0 ? x_scale dout [|xhat| <= limit] : dout
//     dz = z_scale dout + z_weight dxhat (z_scale = 0 where limit = 0),  dprediction = prediction_weight
//     dxhat, ...
struct AffineStepBackward {
  const void* dout;        // (n,) z_dtype
  const void* z;           // (n,) z_dtype; z, prediction and uncond are read where limit > 0
  const void* prediction;  // (n,) prediction_dtype
  const void* uncond;      // (n,) prediction_dtype, or null
  void* dz;                // (n,) z_dtype, or null
  void* dprediction;       // (n,) prediction_dtype, or null
  void* duncond;           // (n,) prediction_dtype, or null
  DType z_dtype, prediction_dtype;
  float z_weight, prediction_weight, uncond_weight;
  float z_scale, x_scale, limit;
};

// Elements [begin, end); begin is a multiple of kChunk.
VDM_DECLARE_SIMD(affine_step, (const AffineStep& step, int64_t begin, int64_t end))
VDM_DECLARE_SIMD(affine_step_bwd, (const AffineStepBackward& step, int64_t begin, int64_t end))

}  // namespace vdm
