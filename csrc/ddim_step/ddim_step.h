// ddim_step: one step of DDIM, deterministic at eta = 0; see common/step.h.
#pragma once

#include "common/step.h"

namespace vdm {

struct DdimStepParams {
  StepParams step;
  double eta;  // in [0, 1]; seed and draw are read where eta > 0
};

struct DdimStepBackwardParams {
  StepBackwardParams step;
  double eta;
};

void ddim_step_cpu(const DdimStepParams& params);
void ddim_step_bwd_cpu(const DdimStepBackwardParams& params);
void ddim_step_cuda(const DdimStepParams& params, void* stream);
void ddim_step_bwd_cuda(const DdimStepBackwardParams& params, void* stream);

}  // namespace vdm
