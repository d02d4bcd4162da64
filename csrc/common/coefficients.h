// The formulas of the diffusion steps, once for C++ and CUDA. Everything is a function of log SNR:
//
//     alpha^2 = sigmoid(logsnr), sigma^2 = sigmoid(-logsnr)      variance preserving
//     alpha = 1,                 sigma^2 = exp(-logsnr)          variance exploding
//
// and every step from t to s < t is one affine form (StepCoefficients). `Real` is double on the CPU; float is
// stable too, for |logsnr| <= 20.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"
#include "common/types.h"

namespace vdm {

// z_s = z_scale * z + x_scale * xhat + noise_scale * noise,  xhat = x_from_z * z + x_from_prediction *
// prediction, where thresholding and guidance act on xhat and on prediction.
template <typename Real>
struct StepCoefficients {
  Real z_scale, x_scale, noise_scale;
  Real x_from_z, x_from_prediction;
};

template <typename Real>
struct SignalNoise {
  Real alpha, sigma;
  Real norm2;  // alpha^2 + sigma^2
};

template <typename Real>
VDM_HOST_DEVICE inline SignalNoise<Real> signal_noise(Real logsnr, bool variance_preserving) {
  using std::exp;
  using std::sqrt;
  if (!variance_preserving) return {Real(1), exp(Real(-0.5) * logsnr), Real(1) + exp(-logsnr)};
  return {Real(1) / sqrt(Real(1) + exp(-logsnr)), Real(1) / sqrt(Real(1) + exp(logsnr)), Real(1)};
}

// xhat from what the network predicts: (z - sigma eps) / alpha, x, or (alpha z - sigma v) / (alpha^2 +
// sigma^2).
template <typename Real>
VDM_HOST_DEVICE inline void set_prediction(StepCoefficients<Real>* step, const SignalNoise<Real>& t,
                                           Parameterization parameterization) {
  switch (parameterization) {
    case Parameterization::kEps:
      step->x_from_z = Real(1) / t.alpha;
      step->x_from_prediction = -t.sigma / t.alpha;
      break;
    case Parameterization::kX:
      step->x_from_z = Real(0);
      step->x_from_prediction = Real(1);
      break;
    case Parameterization::kV:
      step->x_from_z = t.alpha / t.norm2;
      step->x_from_prediction = -t.sigma / t.norm2;
      break;
  }
}

// Ho et al. 2022 (arXiv 2204.03458), eq. 3 and 4: with e = exp(logsnr_t - logsnr_s),
//
//     z_s = e (alpha_s / alpha_t) z + (1 - e) alpha_s xhat + sqrt(((1 - e) sigma_s^2)^(1-gamma) ((1 - e)
//     sigma_t^2)^gamma) noise
template <typename Real>
VDM_HOST_DEVICE inline StepCoefficients<Real> ancestral_coefficients(Real logsnr_t, Real logsnr_s, Real gamma,
                                                                     Parameterization parameterization,
                                                                     bool variance_preserving) {
  using std::exp;
  using std::expm1;
  using std::pow;
  using std::sqrt;
  const SignalNoise<Real> t = signal_noise(logsnr_t, variance_preserving);
  const SignalNoise<Real> s = signal_noise(logsnr_s, variance_preserving);
  const Real one_minus_e = -expm1(logsnr_t - logsnr_s);
  StepCoefficients<Real> step;
  step.z_scale = exp(logsnr_t - logsnr_s) * s.alpha / t.alpha;
  step.x_scale = one_minus_e * s.alpha;
  step.noise_scale = sqrt(one_minus_e) * s.sigma * pow(t.sigma / s.sigma, gamma);
  set_prediction(&step, t, parameterization);
  return step;
}

// Song et al. 2021 (arXiv 2010.02502), eq. 12, in log SNR: with sigma_eta = eta sqrt(1 - e) sigma_s,
//
//     z_s = alpha_s xhat + sqrt(sigma_s^2 - sigma_eta^2) epshat + sigma_eta noise,  epshat = (z - alpha_t
//     xhat) / sigma_t
template <typename Real>
VDM_HOST_DEVICE inline StepCoefficients<Real> ddim_coefficients(Real logsnr_t, Real logsnr_s, Real eta,
                                                                Parameterization parameterization,
                                                                bool variance_preserving) {
  using std::exp;
  using std::expm1;
  using std::sqrt;
  const SignalNoise<Real> t = signal_noise(logsnr_t, variance_preserving);
  const SignalNoise<Real> s = signal_noise(logsnr_s, variance_preserving);
  const Real one_minus_e = -expm1(logsnr_t - logsnr_s);
  // sqrt(sigma_s^2 - sigma_eta^2) / sigma_s = sqrt(1 - eta^2 (1 - e)), without cancellation.
  const Real kept = sqrt((Real(1) - eta) * (Real(1) + eta) + eta * eta * exp(logsnr_t - logsnr_s));
  StepCoefficients<Real> step;
  step.z_scale = kept * s.sigma / t.sigma;
  step.x_scale = s.alpha - step.z_scale * t.alpha;
  step.noise_scale = eta * sqrt(one_minus_e) * s.sigma;
  set_prediction(&step, t, parameterization);
  return step;
}

// Langevin at one log SNR (Ho et al. 2022, section 3.2; Song et al. 2021, arXiv 2011.13456, appendix G):
//
//     z <- z - (delta / 2) sigma epshat + sqrt(delta) sigma noise,  sigma epshat = z - alpha xhat
template <typename Real>
VDM_HOST_DEVICE inline StepCoefficients<Real> langevin_coefficients(Real logsnr, Real delta,
                                                                    Parameterization parameterization,
                                                                    bool variance_preserving) {
  using std::sqrt;
  const SignalNoise<Real> t = signal_noise(logsnr, variance_preserving);
  StepCoefficients<Real> step;
  step.z_scale = Real(1) - Real(0.5) * delta;
  step.x_scale = Real(0.5) * delta * t.alpha;
  step.noise_scale = sqrt(delta) * t.sigma;
  set_prediction(&step, t, parameterization);
  return step;
}

}  // namespace vdm
