// langevin_step: one step of Langevin dynamics at one log SNR, logsnr_t of common/step.h.
#pragma once

#include "common/step.h"

namespace vdm {

struct LangevinStepParams {
  StepParams step;
  double delta;  // in [0, 1]: the step in units of sigma^2; seed and draw are read where delta > 0
};

struct LangevinStepBackwardParams {
  StepBackwardParams step;
  double delta;
};

void langevin_step_cpu(const LangevinStepParams& params);
void langevin_step_bwd_cpu(const LangevinStepBackwardParams& params);
void langevin_step_cuda(const LangevinStepParams& params, void* stream);
void langevin_step_bwd_cuda(const LangevinStepBackwardParams& params, void* stream);

}  // namespace vdm
