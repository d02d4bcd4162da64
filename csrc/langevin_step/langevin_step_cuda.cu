// langevin_step on CUDA: the kernels of common/step_cuda.cuh with the Langevin rule.
#include "common/step_cuda.cuh"
#include "langevin_step/langevin_step.h"

namespace vdm {
namespace {

struct LangevinRule {
  double delta;

  __device__ bool noisy() const { return delta > 0.0; }
  __device__ StepCoefficients<double> coefficients(double logsnr, double, Parameterization parameterization,
                                                   bool variance_preserving) const {
    return langevin_coefficients(logsnr, delta, parameterization, variance_preserving);
  }
};

}  // namespace

void langevin_step_cuda(const LangevinStepParams& params, void* stream) {
  step_cuda(params.step, LangevinRule{params.delta}, stream, "langevin_step_cuda");
}

void langevin_step_bwd_cuda(const LangevinStepBackwardParams& params, void* stream) {
  step_bwd_cuda(params.step, LangevinRule{params.delta}, stream, "langevin_step_bwd_cuda");
}

}  // namespace vdm
