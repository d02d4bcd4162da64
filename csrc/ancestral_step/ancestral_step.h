// ancestral_step: z_s ~ q(z_s | z_t, xhat), one step of the ancestral sampler; see common/step.h.
#pragma once

#include "common/step.h"

namespace vdm {

struct AncestralStepParams {
  StepParams step;
  double gamma;    // in [0, 1]: log-interpolates the noise's variance
  bool add_noise;  // false on the last step
};

struct AncestralStepBackwardParams {
  StepBackwardParams step;  // gamma scales the noise alone: no gradient depends on it
};

void ancestral_step_cpu(const AncestralStepParams& params);
void ancestral_step_bwd_cpu(const AncestralStepBackwardParams& params);
void ancestral_step_cuda(const AncestralStepParams& params, void* stream);
void ancestral_step_bwd_cuda(const AncestralStepBackwardParams& params, void* stream);

}  // namespace vdm
