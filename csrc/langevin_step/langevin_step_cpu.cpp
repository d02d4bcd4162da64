#include "common/step_cpu.h"
#include "langevin_step/langevin_step.h"

namespace vdm {

void langevin_step_cpu(const LangevinStepParams& params) {
  const StepParams& step = params.step;
  step_cpu(step, [&](double logsnr, double) {
    return langevin_coefficients(logsnr, params.delta, step.parameterization, step.variance_preserving);
  });
}

void langevin_step_bwd_cpu(const LangevinStepBackwardParams& params) {
  const StepBackwardParams& step = params.step;
  step_bwd_cpu(step, [&](double logsnr, double) {
    return langevin_coefficients(logsnr, params.delta, step.parameterization, step.variance_preserving);
  });
}

}  // namespace vdm
