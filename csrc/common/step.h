// What the sampler steps (ancestral_step, ddim_step, langevin_step) take, forward and backward.
//
//     prediction <- (1 + w) prediction - w uncond                       where uncond is given
//     xhat = x_from_z z + x_from_prediction prediction
//     xhat <- clip(xhat, -s', s') / s',  s' = max(threshold, 1)         where threshold is given
//     z_s = z_scale z + x_scale xhat + noise_scale noise                coefficients.h
#pragma once

#include <cstdint>

#include "common/types.h"

namespace vdm {

struct StepParams {
  const void* z;           // (batch, n) z_dtype
  const void* prediction;  // (batch, n) prediction_dtype
  const void* uncond;      // (batch, n) prediction_dtype, or null
  void* out;               // (batch, n) z_dtype
  DType z_dtype, prediction_dtype;
  int64_t batch, n;              // n = elements per sample
  const float* logsnr_t;         // (batch,)
  const float* logsnr_s;         // (batch,)
  const float* guidance_weight;  // (batch,); read where uncond is given
  const float* threshold;        // (batch,), or null
  const int64_t* seed;           // (batch,); read where there is noise
  const int64_t* draw;           // (1,); read where there is noise
  Parameterization parameterization;
  bool variance_preserving;
};

// The gradients of z, prediction and uncond; each of the outputs may be null. z, prediction and uncond are
// read only where threshold is given (the clip passes the gradient where |xhat| <= s'). logsnr,
// guidance_weight and threshold are constants.
struct StepBackwardParams {
  const void* dout;        // (batch, n) z_dtype
  const void* z;           // (batch, n) z_dtype
  const void* prediction;  // (batch, n) prediction_dtype
  const void* uncond;      // (batch, n) prediction_dtype, or null: no guidance
  void* dz;                // (batch, n) z_dtype, or null
  void* dprediction;       // (batch, n) prediction_dtype, or null
  void* duncond;           // (batch, n) prediction_dtype, or null
  DType z_dtype, prediction_dtype;
  int64_t batch, n;
  const float* logsnr_t;         // (batch,)
  const float* logsnr_s;         // (batch,)
  const float* guidance_weight;  // (batch,), or null
  const float* threshold;        // (batch,), or null
  Parameterization parameterization;
  bool variance_preserving;
};

}  // namespace vdm
