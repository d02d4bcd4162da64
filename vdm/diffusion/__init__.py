"""The diffusion process: schedules, moments, parameterizations, losses and denoisers."""

from vdm.diffusion.denoiser import Denoiser, Model, ModelDenoiser, SupportsGuidance, model_denoiser, predict
from vdm.diffusion.losses import LOSS_WEIGHTS, LossWeight, diffusion_loss, loss_weight, stratified_times
from vdm.diffusion.parameterization import (
    PARAMETERIZATIONS,
    Parameterization,
    Prediction,
    eps_from_v,
    eps_from_x,
    v_from_eps,
    v_from_x,
    v_from_x_eps,
    x_from_eps,
    x_from_v,
)
from vdm.diffusion.process import alpha_sigma, diffuse, q_posterior, q_transition, score_from_eps
from vdm.diffusion.schedules import (
    SCHEDULES,
    CosineSchedule,
    DiscreteLinearBetaSchedule,
    GeometricVESchedule,
    LinearBetaSchedule,
    Schedule,
    times,
)

__all__ = [
    "LOSS_WEIGHTS",
    "PARAMETERIZATIONS",
    "SCHEDULES",
    "CosineSchedule",
    "Denoiser",
    "DiscreteLinearBetaSchedule",
    "GeometricVESchedule",
    "LinearBetaSchedule",
    "LossWeight",
    "Model",
    "ModelDenoiser",
    "Parameterization",
    "Prediction",
    "Schedule",
    "SupportsGuidance",
    "alpha_sigma",
    "diffuse",
    "diffusion_loss",
    "eps_from_v",
    "eps_from_x",
    "loss_weight",
    "model_denoiser",
    "predict",
    "q_posterior",
    "q_transition",
    "score_from_eps",
    "stratified_times",
    "times",
    "v_from_eps",
    "v_from_x",
    "v_from_x_eps",
    "x_from_eps",
    "x_from_v",
]
