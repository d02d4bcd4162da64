"""Samples as a configuration says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from PIL import Image

from vdm.models import VideoUNet
from vdm.training import Config, sample_videos, write_samples
from vdm.training.build import build_model
from vdm.training.sampling import sample_labels, tiled

MakeConfig = Callable[..., Config]


def network(config: Config) -> VideoUNet:
    torch.manual_seed(0)
    model = build_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # what starts at zero, too
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_a_video_depends_on_its_seed_and_class(make_config: MakeConfig) -> None:
    config = make_config("sampling.guidance_weight=0.5", "sampling.steps=3")
    model = network(config)
    three = sample_videos(model, config, seeds=[5, 6, 7], labels=[1, 2, 3])
    assert three.shape == (3, 1, 3, 8, 8)
    assert three.abs().max() <= 1.0
    alone = sample_videos(model, config, seeds=[6], labels=[2])
    torch.testing.assert_close(alone[0], three[1], rtol=0, atol=1e-4)
    other = sample_videos(model, config, seeds=[6], labels=[4])
    assert (other - alone).abs().max() > 1e-3


@pytest.mark.parametrize(
    "override",
    [
        "sampling.sampler=ddim",
        "sampling.sampler=predictor_corrector",
        "sampling.sampler=dpm_solver_pp",
        "sampling.sampler=distilled",
        "sampling.threshold=dynamic",
        "sampling.threshold=none",
        "sampling.gamma=1",
        "diffusion.schedule=linear_beta",
        "diffusion.schedule=discrete_linear_beta",
        "diffusion.parameterization=eps",
        "data.width=12",
    ],
)
def test_settings_reach_the_sampler(make_config: MakeConfig, override: str) -> None:
    plain, changed = make_config("sampling.steps=3"), make_config("sampling.steps=3", override)
    model = network(plain)
    videos = [sample_videos(model, c, seeds=[1], labels=[1]) for c in (plain, changed)]
    assert videos[1].isfinite().all()
    assert videos[0].shape != videos[1].shape or not torch.equal(*videos)


def test_variance_exploding_runs_sample(make_config: MakeConfig) -> None:
    config = make_config(
        "diffusion.schedule=geometric_ve", "diffusion.parameterization=eps", "diffusion.loss_weight=eps"
    )
    assert sample_videos(network(config), config, seeds=[1], labels=[1]).isfinite().all()
    langevin = replace(config, sampling=replace(config.sampling, sampler="annealed_langevin"))
    shorter = replace(langevin, sampling=replace(langevin.sampling, eta0=1e-6))
    longer = replace(langevin, sampling=replace(langevin.sampling, steps_per_level=6))
    videos = [
        sample_videos(network(c), c, seeds=[1], labels=[1]) for c in (config, langevin, shorter, longer)
    ]
    assert all(video.isfinite().all() for video in videos)
    assert not any(torch.equal(a, b) for a, b in combinations(videos, 2))


def test_settings_of_one_sampler_reach_it(make_config: MakeConfig) -> None:
    corrected = "sampling.sampler=predictor_corrector"
    model = network(make_config())
    plain, delta, steps, gamma, graph = (
        make_config("sampling.steps=3", corrected, *more)
        for more in (
            [],
            ["sampling.delta=0.3"],
            ["sampling.corrector_steps=2"],
            ["sampling.gamma=1"],
            ["sampling.cuda_graph=true"],
        )
    )
    videos = [sample_videos(model, c, seeds=[1], labels=[1]) for c in (plain, delta, steps, gamma)]
    assert not any(torch.equal(a, b) for a, b in combinations(videos, 2))
    with pytest.raises(
        ValueError, match="predictor_corrector: cuda_graph must be False without a CUDA device"
    ):
        sample_videos(model, graph, seeds=[1], labels=[1])


def test_models_without_classes_take_no_labels(make_config: MakeConfig) -> None:
    config = make_config(
        "model.num_classes=none", "sampling.guidance_weight=2", "model.fps_conditioning=true"
    )
    assert sample_labels(config, 3) is None
    assert sample_videos(network(config), config, seeds=[1, 2]).shape[0] == 2
    with pytest.raises(ValueError, match=r"the model needs no labels, got \[1\]"):
        sample_videos(network(config), config, seeds=[1], labels=[1])
    classes = make_config()
    with pytest.raises(ValueError, match="the model needs 2 labels, got None"):
        sample_videos(network(classes), classes, seeds=[1, 2])


def test_labels_repeat(make_config: MakeConfig) -> None:
    assert sample_labels(make_config(), 12) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert sample_labels(make_config("sampling.labels=3,1"), 3) == [3, 1, 3]


def test_files(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config("sampling.count=7")
    path = write_samples(network(config), config, tmp_path / "samples", step=12)
    assert path == tmp_path / "samples" / "step-00000012.gif"
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.size) == (3, (5 * 96, 2 * 96))
    assert path.with_suffix(".png").is_file()
    before = path.read_bytes()
    write_samples(network(config), config, tmp_path / "samples", step=12)
    assert path.read_bytes() == before


def test_tiles() -> None:
    videos = torch.arange(7.0).view(7, 1, 1, 1, 1).expand(7, 2, 3, 4, 5) / 10
    grid = tiled(videos)
    assert grid.shape == (2, 3, 8, 25)
    assert (grid[:, :, :4, 5:10] == 0.1).all()
    assert (grid[:, :, 4:, 5:10] == 0.6).all()
    assert (grid[:, :, 4:, 10:] == -1.0).all()
    assert tiled(videos[:2]).shape == (2, 3, 4, 10)
