#include "common/step_cpu.h"
#include "ddim_step/ddim_step.h"

namespace vdm {

void ddim_step_cpu(const DdimStepParams& params) {
  const StepParams& step = params.step;
  step_cpu(step, [&](double logsnr_t, double logsnr_s) {
    return ddim_coefficients(logsnr_t, logsnr_s, params.eta, step.parameterization, step.variance_preserving);
  });
}

void ddim_step_bwd_cpu(const DdimStepBackwardParams& params) {
  const StepBackwardParams& step = params.step;
  step_bwd_cpu(step, [&](double logsnr_t, double logsnr_s) {
    return ddim_coefficients(logsnr_t, logsnr_s, params.eta, step.parameterization, step.variance_preserving);
  });
}

}  // namespace vdm
