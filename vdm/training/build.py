"""From a configuration to the objects it describes: schedule, model, data."""

from __future__ import annotations

from vdm.data import DrawDataset, ImageFolder, JointImageVideo, MovingDigits, VideoFolder
from vdm.diffusion import (
    CosineSchedule,
    DiscreteLinearBetaSchedule,
    GeometricVESchedule,
    LinearBetaSchedule,
    Schedule,
)
from vdm.models import VideoUNet
from vdm.training.config import Config, ConfigError, DataConfig, DiffusionConfig


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


def build_model(config: Config) -> VideoUNet:
    """The network of a configuration, freshly initialised from torch's generator.

    Raises:
        ConfigError: the model needs conditions that this trainer does not provide.
    """
    for name in ("text_embedding_dim", "text_token_dim"):
        if getattr(config.model, name) is not None:
            raise ConfigError(f"model.{name}: training needs text embeddings in the data, got none")
    if config.model.low_res_channels:
        raise ConfigError(
            "model.low_res_channels: training needs low-resolution videos in the data, got none"
        )
    return VideoUNet.from_config(config.model)


def build_dataset(config: DataConfig, *, channels: int, seed: int) -> DrawDataset:
    """The training data of a configuration: item i is the i-th draw.

    Raises:
        ValueError: a folder is missing or empty, or an option does not fit the kind of data.
    """
    videos = _videos(config, channels=channels, seed=seed)
    if config.num_image_frames == 0:
        return videos
    images = None
    if config.image_path is not None:
        images = ImageFolder(
            config.image_path, size=config.shape, channels=channels, seed=seed, horizontal_flip=config.flip
        )
    return JointImageVideo(videos, images, num_images=config.num_image_frames)


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


def check_data(config: Config, dataset: DrawDataset) -> None:
    """Look at the first draw: does it fit the model?

    Raises:
        ConfigError: channels or labels differ from what the model was configured for.
    """
    clip = dataset[0]
    channels = clip.video.shape[0]
    if channels != config.model.in_channels:
        raise ConfigError(f"model.in_channels must be the data's {channels}, got {config.model.in_channels}")
    classes = config.model.num_classes
    if classes is None:
        return
    if clip.label is None:
        raise ConfigError(f"model.num_classes={classes} needs labelled data, got data without labels")
    if dataset.classes is not None and len(dataset.classes) > classes:
        raise ConfigError(
            f"model.num_classes must be at least the data's {len(dataset.classes)} classes, got {classes}"
        )
