"""The configuration of a training run: plain frozen dataclasses, one per section."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vdm.diffusion import LossWeight, Parameterization
from vdm.models import VideoUNetConfig

DataKind = Literal["moving-digits", "video-folder"]
SamplerName = Literal[
    "ancestral", "ddim", "predictor_corrector", "dpm_solver_pp", "distilled", "annealed_langevin"
]
ScheduleName = Literal["cosine", "linear_beta", "discrete_linear_beta", "geometric_ve"]


class ConfigError(ValueError):
    """A configuration is not usable; the message names the section and key."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class DiffusionConfig:
    """The process and what the network predicts.

    Args:
        schedule: log-SNR schedule. "cosine" uses logsnr_min, logsnr_max and shift; "linear_beta" beta_min and
            beta_max (none: 0.1 and 20); "discrete_linear_beta" num_timesteps, and beta_min and beta_max (none:
            1e-4 and 0.02); "geometric_ve" sigma_min and sigma_max.
        shift: added to the cosine schedule's λ; 2 log(64 / size) for resolutions over 64.
        parameterization: what the network predicts.
        loss_weight: named weight w of the loss on x, see `vdm.diffusion.loss_weight`.
        min_snr_gamma: γ of the "min_snr" weight.
    """

    schedule: ScheduleName = "cosine"
    logsnr_min: float = -20.0
    logsnr_max: float = 20.0
    shift: float = 0.0
    beta_min: float | None = None
    beta_max: float | None = None
    num_timesteps: int = 1000
    sigma_min: float = 0.01
    sigma_max: float = 50.0
    parameterization: Parameterization = "v"
    loss_weight: LossWeight = "eps"
    min_snr_gamma: float = 5.0

    def __post_init__(self) -> None:
        ordered = self.logsnr_min < self.logsnr_max
        _require(ordered, f"diffusion.logsnr_min must be below logsnr_max, got {self.logsnr_min}")
        _require(
            self.num_timesteps >= 1, f"diffusion.num_timesteps must be positive, got {self.num_timesteps}"
        )
        positive = 0 < self.sigma_min < self.sigma_max
        _require(positive, f"diffusion.sigma_min must be in (0, sigma_max), got {self.sigma_min}")
        _require(
            self.min_snr_gamma > 0, f"diffusion.min_snr_gamma must be positive, got {self.min_snr_gamma}"
        )


@dataclass(frozen=True)
class DataConfig:
    """The videos.

    Args:
        kind: "moving-digits" (generated from the run's seed) or "video-folder" (files under `path`).
        path: folder of videos.
        size: height and width in pixels; height and width, where given, override it.
        frames: frames per clip.
        frame_skip: take every n-th frame of a file; not together with fps.
        fps: resample files to this rate.
        flip: mirror half of the clips.
        num_digits: digits per moving-digits clip.
        digits_path: folder of MNIST IDX files in place of the built-in digits.
        image_path: folder of images for joint training; None = images are frames of other clips.
        num_image_frames: independent images K appended to each row.
    """

    kind: DataKind = "moving-digits"
    path: str | None = None
    size: int = 32
    height: int | None = None
    width: int | None = None
    frames: int = 16
    frame_skip: int | None = None
    fps: float | None = None
    flip: bool = False
    num_digits: int = 1
    digits_path: str | None = None
    image_path: str | None = None
    num_image_frames: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "frames", "num_digits"):
            value = getattr(self, name)
            _require(value >= 1, f"data.{name} must be at least 1, got {value}")
        for name in ("height", "width", "frame_skip", "fps"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"data.{name} must be positive, got {value}")
        _require(
            self.num_image_frames >= 0, f"data.num_image_frames must be >= 0, got {self.num_image_frames}"
        )
        both = self.frame_skip is not None and self.fps is not None
        _require(not both, "data.frame_skip and data.fps exclude each other, got both")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height or self.size, self.width or self.size


@dataclass(frozen=True)
class TrainingConfig:
    """Optimization and the run itself.

    Args:
        steps: optimizer steps in all.
        batch_size: rows per optimizer step, over all micro-batches.
        accumulation_steps: micro-batches per optimizer step; must divide batch_size.
        lr: learning rate after warm-up.
        beta1, beta2, eps, weight_decay: of AdamW.
        warmup_steps: linear warm-up of the learning rate.
        lr_decay: "constant", or "cosine" to zero at `steps`.
        clip_norm: largest norm of the whole gradient; None = no clipping.
        ema_decay: decay of the moving average of the weights.
        precision: "bf16" runs the network under bfloat16 autocast, weights stay float32.
        seed: everything random in the run derives from it.
        conditioning_dropout: probability that a row trains without class and text.
        checkpoint_every, sample_every, log_every: in steps; sample_every 0 = only at the end.
        keep_checkpoints: how many of the newest checkpoints are kept.
        workers: processes that prepare data; 0 = one background thread.
        compile: run the network through torch.compile.
    """

    steps: int = 10_000
    batch_size: int = 16
    accumulation_steps: int = 1
    lr: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 100
    lr_decay: Literal["constant", "cosine"] = "constant"
    clip_norm: float | None = 1.0
    ema_decay: float = 0.9999
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    conditioning_dropout: float = 0.1
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    sample_every: int = 1000
    log_every: int = 10
    workers: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation_steps", "checkpoint_every", "keep_checkpoints"):
            value = getattr(self, name)
            _require(value >= 1, f"training.{name} must be at least 1, got {value}")
        for name in ("warmup_steps", "sample_every", "workers", "weight_decay"):
            value = getattr(self, name)
            _require(value >= 0, f"training.{name} must be at least 0, got {value}")
        _require(self.log_every >= 1, f"training.log_every must be at least 1, got {self.log_every}")
        for name in ("lr", "eps"):
            value = getattr(self, name)
            _require(value > 0, f"training.{name} must be positive, got {value}")
        for name in ("beta1", "beta2", "ema_decay"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"training.{name} must be in [0, 1), got {value}")
        dropout = self.conditioning_dropout
        _require(0 <= dropout <= 1, f"training.conditioning_dropout must be in [0, 1], got {dropout}")
        clip = self.clip_norm
        _require(clip is None or clip > 0, f"training.clip_norm must be positive or none, got {clip}")
        divides = self.batch_size % self.accumulation_steps == 0
        size, parts = self.batch_size, self.accumulation_steps
        _require(divides, f"training.accumulation_steps must divide batch_size={size}, got {parts}")
        _require(0 <= self.seed < 2**63, f"training.seed must be in [0, 2^63), got {self.seed}")


@dataclass(frozen=True)
class SamplingConfig:
    """The samples drawn while training, and the defaults of `vdm sample` with the exported model.

    Args:
        sampler: a function of `vdm.samplers`; the settings down to steps_per_level are its arguments.
        steps: sampler steps.
        gamma: noise interpolation γ of "ancestral" and "predictor_corrector", in [0, 1].
        eta: η of "ddim"; 0 = deterministic.
        delta: Langevin step δ of "predictor_corrector", in [0, 1].
        corrector_steps: Langevin steps after each of its predictor steps.
        eta0: η0 of "annealed_langevin", in (0, σ_min²/2].
        steps_per_level: its Langevin steps at each noise level.
        cuda_graph: run a sampler's step as one CUDA graph; on a GPU only.
        guidance_weight: w of classifier-free guidance, (1 + w) conditional - w unconditional; 0 = none.
        threshold: "static" clips x̂ to [-1, 1]; "dynamic" scales by a quantile first; "none".
        threshold_quantile: p of the dynamic threshold.
        count: videos per sample sheet.
        labels: classes of the videos, repeated to `count`; none = 0, 1, 2, ...
        seed: seed of the first video, the others count on from it.
        fps: frames per second of the GIF.
    """

    sampler: SamplerName = "ancestral"
    steps: int = 256
    gamma: float = 0.1
    eta: float = 0.0
    delta: float = 0.1
    corrector_steps: int = 1
    eta0: float = 1e-5
    steps_per_level: int = 5
    cuda_graph: bool = False
    guidance_weight: float = 0.0
    threshold: Literal["static", "dynamic", "none"] = "static"
    threshold_quantile: float = 0.995
    count: int = 8
    labels: tuple[int, ...] | None = None
    seed: int = 0
    fps: float = 8.0

    def __post_init__(self) -> None:
        for name in ("steps", "count", "steps_per_level"):
            value = getattr(self, name)
            _require(value >= 1, f"sampling.{name} must be at least 1, got {value}")
        corrections = self.corrector_steps
        _require(corrections >= 0, f"sampling.corrector_steps must be at least 0, got {corrections}")
        _require(self.eta0 > 0, f"sampling.eta0 must be positive, got {self.eta0}")
        for name in ("gamma", "eta", "delta", "threshold_quantile"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"sampling.{name} must be in [0, 1], got {value}")
        weight = self.guidance_weight
        _require(weight >= 0, f"sampling.guidance_weight must be at least 0, got {weight}")
        _require(self.fps > 0, f"sampling.fps must be positive, got {self.fps}")


@dataclass(frozen=True)
class Config:
    """A whole run."""

    model: VideoUNetConfig = field(default_factory=VideoUNetConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        divisor = self.model.size_divisor
        for side in self.data.shape:
            _require(
                side % divisor == 0,
                f"data.size must be a multiple of {divisor} for {self.model.num_levels} levels, got {side}",
            )
        images = self.data.num_image_frames
        _require(
            images == 0 or self.model.norm_scope == "frame",
            f"data.num_image_frames needs model.norm_scope=frame, got {images} with {self.model.norm_scope}",
        )
        self._check_sampler()
        classes = self.model.num_classes
        for label in self.sampling.labels or ():
            _require(classes is not None, "sampling.labels needs model.num_classes, got none")
            assert classes is not None
            _require(0 <= label < classes, f"sampling.labels must be in 0..{classes - 1}, got {label}")

    def _check_sampler(self) -> None:
        diffusion, sampling = self.diffusion, self.sampling
        if diffusion.schedule == "discrete_linear_beta":
            most = diffusion.num_timesteps
            fits = sampling.steps <= most
            _require(
                fits, f"sampling.steps must be at most diffusion.num_timesteps={most}, got {sampling.steps}"
            )
        if sampling.sampler == "annealed_langevin":
            schedule, most_eta0 = diffusion.schedule, 0.5 * diffusion.sigma_min**2
            _require(
                schedule == "geometric_ve",
                f"sampling.sampler=annealed_langevin needs diffusion.schedule=geometric_ve, got {schedule}",
            )
            _require(
                sampling.eta0 <= most_eta0,
                f"sampling.eta0 must be at most sigma_min^2/2 = {most_eta0:g}, got {sampling.eta0}",
            )
