"""Samples from a network as its configuration says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vdm.data import write_contact_sheet, write_gif
from vdm.diffusion import Denoiser, model_denoiser
from vdm.guidance import classifier_free_guidance, dynamic_threshold, static_threshold
from vdm.models import Conditioning, VideoUNet
from vdm.samplers.loop import Callback
from vdm.training.build import build_sampler, build_schedule
from vdm.training.config import Config, ConfigError, SamplingConfig

_SHEET_FRAMES = 8
_GIF_PIXELS = 96


def sample_videos(
    model: VideoUNet,
    config: Config,
    *,
    seeds: Sequence[int],
    labels: Sequence[int] | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Videos from a network, by `config.sampling`, of the shape in `config.data`.

    Args:
        model: the network, in eval mode.
        config: its configuration.
        seeds: one per video; a video depends on nothing but its own.
        labels: one class per video, where the model has classes.
        callback: called at every sampler step.

    Returns:
        (B, C, F, H, W) in [-1, 1], on the model's device.

    Raises:
        ValueError: labels do not fit the model.
    """
    classes = config.model.num_classes
    if (labels is None) != (classes is None) or (labels is not None and len(labels) != len(seeds)):
        needed = "no labels" if classes is None else f"{len(seeds)} labels"
        raise ConfigError(f"sample_videos: the model needs {needed}, got {labels}")
    fps = config.data.fps or config.sampling.fps
    denoiser = build_denoiser(model, config, count=len(seeds), labels=labels, fps=fps)
    height, width = config.data.shape
    shape = (len(seeds), config.model.prediction_channels, config.data.frames, height, width)
    sampler = build_sampler(config)
    device = next(model.parameters()).device
    return sampler(
        build_threshold(config.sampling)(denoiser), shape, seeds=seeds, callback=callback, device=device
    )


def build_denoiser(
    model: VideoUNet, config: Config, *, count: int, fps: float, labels: Sequence[int] | None = None
) -> Denoiser:
    """A network as a denoiser of `count` videos, guided towards their classes as `config.sampling` says.

    Args:
        model: the network, in eval mode.
        config: its configuration.
        count: number of videos.
        fps: their frames per second, for a network that is conditioned on it.
        labels: one class per video; None draws without class.
    """
    device = next(model.parameters()).device
    conditioning = _conditioning(config, count, labels, fps, device)
    network = model_denoiser(
        model,
        parameterization=config.diffusion.parameterization,
        conditioning=conditioning,
        variance_preserving=build_schedule(config.diffusion).variance_preserving,
    )
    if config.sampling.guidance_weight > 0 and labels is not None:
        return classifier_free_guidance(network, config.sampling.guidance_weight)
    return network


def build_threshold(sampling: SamplingConfig) -> Callable[[Denoiser], Denoiser]:
    """What thresholds a denoiser as configured; it comes after all guidance."""
    if sampling.threshold == "static":
        return static_threshold
    if sampling.threshold == "dynamic":
        return partial(dynamic_threshold, p=sampling.threshold_quantile)
    return lambda denoiser: denoiser


def sample_labels(config: Config, count: int) -> list[int] | None:
    """Classes for `count` videos: the configured ones repeated, or 0, 1, 2, ...; none without classes."""
    classes = config.model.num_classes
    if classes is None:
        return None
    chosen = config.sampling.labels or tuple(range(classes))
    return [chosen[i % len(chosen)] for i in range(count)]


def write_samples(
    model: VideoUNet, config: Config, folder: Path, *, step: int, callback: Callback | None = None
) -> Path:
    """Draw `config.sampling.count` videos with fixed seeds; write `step-XXXXXXXX.gif` and a `.png` sheet.

    Returns:
        Path of the GIF.
    """
    sampling = config.sampling
    seeds = [sampling.seed + i for i in range(sampling.count)]
    labels = sample_labels(config, sampling.count)
    videos = sample_videos(model, config, seeds=seeds, labels=labels, callback=callback).cpu()
    folder.mkdir(parents=True, exist_ok=True)
    gif, sheet = sample_paths(folder, step)
    scale = max(1, _GIF_PIXELS // max(videos.shape[-2:]))
    write_gif(gif, tiled(videos), fps=sampling.fps, scale=scale)
    frames = min(_SHEET_FRAMES, videos.shape[2])
    write_contact_sheet(sheet, videos, frames=frames, labels=labels, scale=max(1, scale // 2))
    return gif


def sample_paths(folder: Path, step: int) -> tuple[Path, Path]:
    """The files of `write_samples`, in the order in which they are written."""
    return folder / f"step-{step:08d}.gif", folder / f"step-{step:08d}.png"


def tiled(videos: Tensor) -> Tensor:
    """Videos (B, C, F, H, W) side by side as one (C, F, rows H, columns W), at most five to a row."""
    count, channels, frames, height, width = videos.shape
    columns = min(5, count)
    rows = -(-count // columns)
    empty = videos.new_full((rows * columns - count, channels, frames, height, width), -1.0)
    grid = torch.cat([videos, empty]).reshape(rows, columns, channels, frames, height, width)
    return grid.permute(2, 3, 0, 4, 1, 5).reshape(channels, frames, rows * height, columns * width)


def _conditioning(
    config: Config, count: int, labels: Sequence[int] | None, fps: float, device: torch.device
) -> Conditioning | None:
    classes, drop = None, None
    if labels is not None:
        classes = torch.tensor(list(labels), dtype=torch.int64, device=device)
    elif config.model.num_classes is not None:
        classes = torch.zeros(count, dtype=torch.int64, device=device)
        drop = torch.ones(count, dtype=torch.bool, device=device)
    rates = torch.full((count,), fps, device=device) if config.model.fps_conditioning else None
    if classes is None and rates is None:
        return None
    return Conditioning(labels=classes, fps=rates, drop=drop)
