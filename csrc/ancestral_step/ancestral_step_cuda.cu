// ancestral_step on CUDA: the kernels of common/step_cuda.cuh with the ancestral rule.
#include "ancestral_step/ancestral_step.h"
#include "common/step_cuda.cuh"

namespace vdm {
namespace {

struct AncestralRule {
  double gamma;
  bool add_noise;

  __device__ bool noisy() const { return add_noise; }
  __device__ StepCoefficients<double> coefficients(double logsnr_t, double logsnr_s,
                                                   Parameterization parameterization,
                                                   bool variance_preserving) const {
    return ancestral_coefficients(logsnr_t, logsnr_s, gamma, parameterization, variance_preserving);
  }
};

}  // namespace

void ancestral_step_cuda(const AncestralStepParams& params, void* stream) {
  step_cuda(params.step, AncestralRule{params.gamma, params.add_noise}, stream, "ancestral_step_cuda");
}

void ancestral_step_bwd_cuda(const AncestralStepBackwardParams& params, void* stream) {
  step_bwd_cuda(params.step, AncestralRule{0.0, false}, stream, "ancestral_step_bwd_cuda");
}

}  // namespace vdm
