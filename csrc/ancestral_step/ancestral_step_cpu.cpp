#include "ancestral_step/ancestral_step.h"
#include "common/step_cpu.h"

namespace vdm {

void ancestral_step_cpu(const AncestralStepParams& params) {
  const StepParams& step = params.step;
  step_cpu(step, [&](double logsnr_t, double logsnr_s) {
    StepCoefficients<double> c = ancestral_coefficients(logsnr_t, logsnr_s, params.gamma,
                                                        step.parameterization, step.variance_preserving);
    if (!params.add_noise) c.noise_scale = 0.0;
    return c;
  });
}

void ancestral_step_bwd_cpu(const AncestralStepBackwardParams& params) {
  const StepBackwardParams& step = params.step;
  step_bwd_cpu(step, [&](double logsnr_t, double logsnr_s) {
    return ancestral_coefficients(logsnr_t, logsnr_s, 0.0, step.parameterization, step.variance_preserving);
  });
}

}  // namespace vdm
