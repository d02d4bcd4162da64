// ddim_step on CUDA: the kernels of common/step_cuda.cuh with the DDIM rule.
#include "common/step_cuda.cuh"
#include "ddim_step/ddim_step.h"

namespace vdm {
namespace {

struct DdimRule {
  double eta;

  __device__ bool noisy() const { return eta > 0.0; }
  __device__ StepCoefficients<double> coefficients(double logsnr_t, double logsnr_s,
                                                   Parameterization parameterization,
                                                   bool variance_preserving) const {
    return ddim_coefficients(logsnr_t, logsnr_s, eta, parameterization, variance_preserving);
  }
};

}  // namespace

void ddim_step_cuda(const DdimStepParams& params, void* stream) {
  step_cuda(params.step, DdimRule{params.eta}, stream, "ddim_step_cuda");
}

void ddim_step_bwd_cuda(const DdimStepBackwardParams& params, void* stream) {
  step_bwd_cuda(params.step, DdimRule{params.eta}, stream, "ddim_step_bwd_cuda");
}

}  // namespace vdm
