"""From a configuration to the objects it describes: schedule, sampler, model, data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from vdm.data import DrawDataset, ImageFolder, JointImageVideo, MovingDigits, VideoFolder
from vdm.diffusion import (
    CosineSchedule,
    DiscreteLinearBetaSchedule,
    GeometricVESchedule,
    LinearBetaSchedule,
    Schedule,
)
from vdm.models import VideoUNet
from vdm.samplers import (
    ancestral,
    annealed_langevin,
    ddim,
    distilled,
    dpm_solver_pp,
    predictor_corrector,
)
from vdm.training.config import Config, ConfigError, DataConfig, DiffusionConfig, SamplerName


def build_schedule(config: DiffusionConfig) -> Schedule:
    """The noise schedule of a configuration."""
    if config.schedule == "cosine":
        return CosineSchedule(logsnr_min=config.logsnr_min, logsnr_max=config.logsnr_max, shift=config.shift)
    if config.schedule == "linear_beta":
        return LinearBetaSchedule(
            beta_min=0.1 if config.beta_min is None else config.beta_min,
            beta_max=20.0 if config.beta_max is None else config.beta_max,
        )
    if config.schedule == "discrete_linear_beta":
        return DiscreteLinearBetaSchedule(
            num_timesteps=config.num_timesteps,
            beta_start=1e-4 if config.beta_min is None else config.beta_min,
            beta_end=0.02 if config.beta_max is None else config.beta_max,
        )
    return GeometricVESchedule(sigma_min=config.sigma_min, sigma_max=config.sigma_max)


def build_sampler(config: Config) -> Callable[..., Tensor]:
    """The sampler of a configuration: of denoiser, shape, and seeds, callback, device and dtype by name."""
    sampling = config.sampling
    own: dict[SamplerName, Callable[..., Tensor]] = {
        "ancestral": partial(ancestral, gamma=sampling.gamma),
        "ddim": partial(ddim, eta=sampling.eta),
        "predictor_corrector": partial(
            predictor_corrector,
            gamma=sampling.gamma,
            delta=sampling.delta,
            corrector_steps=sampling.corrector_steps,
        ),
        "dpm_solver_pp": dpm_solver_pp,
        "distilled": distilled,
        "annealed_langevin": partial(
            annealed_langevin, eta0=sampling.eta0, steps_per_level=sampling.steps_per_level
        ),
    }
    return partial(
        own[sampling.sampler],
        schedule=build_schedule(config.diffusion),
        num_steps=sampling.steps,
        cuda_graph=sampling.cuda_graph,
    )


def build_model(config: Config) -> VideoUNet:
    """The network of a configuration, freshly initialised from torch's generator."""
    return VideoUNet.from_config(config.model)


@dataclass(frozen=True)
class TrainingData:
    """The draws of a run.

    Attributes:
        dataset: item i is the i-th draw.
        fingerprint: hash of the names and sizes of the files that the draws come from; None without files. The
            draws of a run are the same only as long as it is.
    """

    dataset: DrawDataset
    fingerprint: str | None = None


def build_data(config: DataConfig, *, channels: int, seed: int) -> TrainingData:
    """The training data of a configuration.

    Raises:
        ValueError: a folder is missing or empty, or an option does not fit the kind of data.
    """
    videos = _videos(config, channels=channels, seed=seed)
    folders = [videos] if isinstance(videos, VideoFolder) else []
    if config.num_image_frames == 0:
        return TrainingData(videos, _fingerprint(folders))
    images = None
    if config.image_path is not None:
        images = ImageFolder(
            config.image_path, size=config.shape, channels=channels, seed=seed, horizontal_flip=config.flip
        )
    joint = JointImageVideo(videos, images, num_images=config.num_image_frames)
    return TrainingData(joint, _fingerprint(folders if images is None else [*folders, images]))


def check_data(config: Config, dataset: DrawDataset, *, has_text_encoder: bool) -> None:
    """Look at the first draw: does it fit the model?

    Raises:
        ConfigError: channels, classes or captions differ from what the model was configured for.
    """
    model, clip = config.model, dataset[0]
    channels = clip.video.shape[0]
    if channels != model.in_channels:
        raise ConfigError(f"model.in_channels must be the data's {channels}, got {model.in_channels}")
    if model.low_res_channels:
        raise ConfigError("model.low_res_channels: training needs low-resolution videos, the data has none")
    for name in ("text_embedding_dim", "text_token_dim"):
        if getattr(model, name) is None:
            continue
        if not has_text_encoder:
            raise ConfigError(f"model.{name}: training on text needs Trainer(text_encoder=...), got none")
        if clip.caption is None:
            raise ConfigError(f"model.{name} needs videos with captions, the data has none")
    if model.num_classes is None:
        return
    if clip.label is None:
        raise ConfigError(
            f"model.num_classes={model.num_classes} needs labelled data, the data has no labels"
        )
    found = None if dataset.classes is None else len(dataset.classes)
    joint = (
        config.data.num_image_frames > 0
    )  # what has no class carries the data's null label, its class count
    if found is not None and (found > model.num_classes or (joint and found != model.num_classes)):
        needed = "" if joint else "at least "
        raise ConfigError(f"model.num_classes must be {needed}the data's {found}, got {model.num_classes}")


def _videos(config: DataConfig, *, channels: int, seed: int) -> DrawDataset:
    if config.kind == "moving-digits":
        return MovingDigits(
            image_size=config.shape,
            num_frames=config.frames,
            num_digits=config.num_digits,
            channels=channels,
            seed=seed,
            fps=config.fps or 8.0,
            mnist_dir=config.digits_path,
        )
    if config.path is None:
        raise ConfigError("data.path must be a folder of videos for data.kind=video-folder, got none")
    return VideoFolder(
        config.path,
        num_frames=config.frames,
        size=config.shape,
        frame_skip=config.frame_skip or 1,
        fps=config.fps,
        channels=channels,
        seed=seed,
        horizontal_flip=config.flip,
    )


def _fingerprint(folders: Sequence[VideoFolder | ImageFolder]) -> str | None:
    if not folders:
        return None
    digest = hashlib.sha256()
    for folder in folders:
        for name in folder.files:
            digest.update(f"{name}\0{(folder.root / name).stat().st_size}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()
