// From StepParams and coefficients to the affine step, for the CPU launchers of the sampler steps.
#pragma once

#include <algorithm>
#include <vector>

#include "common/affine_step.h"
#include "common/cache.h"
#include "common/coefficients.h"
#include "common/parallel.h"
#include "common/step.h"

namespace vdm {

// z_weight, prediction_weight, ... of `step` from the coefficients, guidance and threshold of one sample.
template <typename Step, typename Params>
void set_weights(Step* step, const Params& params, int64_t sample, const StepCoefficients<double>& c) {
  const double w = params.uncond ? static_cast<double>(params.guidance_weight[sample]) : 0.0;
  const double limit = params.threshold ? std::max(static_cast<double>(params.threshold[sample]), 1.0) : 0.0;
  const double z = c.x_from_z, prediction = c.x_from_prediction * (1.0 + w),
               uncond = -c.x_from_prediction * w;
  const bool clips = params.threshold != nullptr;
  step->z_weight = static_cast<float>(clips ? z : c.z_scale + c.x_scale * z);
  step->prediction_weight = static_cast<float>(clips ? prediction : c.x_scale * prediction);
  step->uncond_weight = static_cast<float>(clips ? uncond : c.x_scale * uncond);
  step->z_scale = static_cast<float>(clips ? c.z_scale : 0.0);
  step->x_scale = static_cast<float>(clips ? c.x_scale / limit : 0.0);
  step->limit = static_cast<float>(limit);
}

inline const void* at(const void* tensor, int64_t bytes) {
  return tensor ? static_cast<const char*>(tensor) + bytes : nullptr;
}
inline void* at(void* tensor, int64_t bytes) { return tensor ? static_cast<char*>(tensor) + bytes : nullptr; }

// coefficients(logsnr_t, logsnr_s) -> StepCoefficients<double>.
template <typename Coefficients>
void step_cpu(const StepParams& params, const Coefficients& coefficients) {
  const int64_t z_bytes = params.n * size_of(params.z_dtype);
  const int64_t prediction_bytes = params.n * size_of(params.prediction_dtype);
  const int64_t pass_bytes = params.batch * (2 * z_bytes + (params.uncond ? 2 : 1) * prediction_bytes);
  std::vector<AffineStep> steps(static_cast<size_t>(params.batch));
  for (int64_t b = 0; b < params.batch; ++b) {
    const StepCoefficients<double> c = coefficients(double{params.logsnr_t[b]}, double{params.logsnr_s[b]});
    AffineStep& step = steps[static_cast<size_t>(b)];
    step.z = at(params.z, b * z_bytes);
    step.prediction = at(params.prediction, b * prediction_bytes);
    step.uncond = at(params.uncond, b * prediction_bytes);
    step.out = at(params.out, b * z_bytes);
    step.z_dtype = params.z_dtype;
    step.prediction_dtype = params.prediction_dtype;
    set_weights(&step, params, b, c);
    step.noise_scale = static_cast<float>(c.noise_scale);
    step.seed = c.noise_scale != 0.0 ? params.seed[b] : 0;
    step.draw = c.noise_scale != 0.0 ? *params.draw : 0;
    step.stream = exceeds_cache(pass_bytes);
  }
  const auto kernel = VDM_SIMD(affine_step);
  parallel_for_chunks(params.batch, params.n, [&](int64_t b, int64_t begin, int64_t end) {
    kernel(steps[static_cast<size_t>(b)], begin, end);
  });
}

template <typename Coefficients>
void step_bwd_cpu(const StepBackwardParams& params, const Coefficients& coefficients) {
  const int64_t z_bytes = params.n * size_of(params.z_dtype);
  const int64_t prediction_bytes = params.n * size_of(params.prediction_dtype);
  std::vector<AffineStepBackward> steps(static_cast<size_t>(params.batch));
  for (int64_t b = 0; b < params.batch; ++b) {
    AffineStepBackward& step = steps[static_cast<size_t>(b)];
    step.dout = at(params.dout, b * z_bytes);
    step.z = at(params.z, b * z_bytes);
    step.prediction = at(params.prediction, b * prediction_bytes);
    step.uncond = at(params.uncond, b * prediction_bytes);
    step.dz = at(params.dz, b * z_bytes);
    step.dprediction = at(params.dprediction, b * prediction_bytes);
    step.duncond = at(params.duncond, b * prediction_bytes);
    step.z_dtype = params.z_dtype;
    step.prediction_dtype = params.prediction_dtype;
    set_weights(&step, params, b, coefficients(double{params.logsnr_t[b]}, double{params.logsnr_s[b]}));
  }
  const auto kernel = VDM_SIMD(affine_step_bwd);
  parallel_for_chunks(params.batch, params.n, [&](int64_t b, int64_t begin, int64_t end) {
    kernel(steps[static_cast<size_t>(b)], begin, end);
  });
}

}  // namespace vdm
