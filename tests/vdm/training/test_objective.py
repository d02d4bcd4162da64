"""The loss of a batch: what it is made of, and that it does not depend on how the batch is divided."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vdm.data import Batch
from vdm.diffusion import CosineSchedule, alpha_sigma
from vdm.models import Conditioning
from vdm.training import Config
from vdm.training.objective import Objective, TextEmbedding, loss_by_logsnr
from vdm.training.randomness import global_times, noise_seeds
from vdm_kernels import philox_normal

MakeConfig = Callable[..., Config]


class Recorder(nn.Module):
    """Predicts zero, and keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.z = self.logsnr = torch.empty(0)
        self.conditioning = Conditioning()
        self.autocast = False

    def forward(self, z: Tensor, logsnr: Tensor, conditioning: Conditioning) -> Tensor:
        self.z, self.logsnr, self.conditioning = z, logsnr, conditioning
        self.autocast = torch.is_autocast_enabled("cpu")
        return torch.zeros_like(z)


def batch(rows: int = 4, *, frames: int = 3, images: int = 0) -> Batch:
    torch.manual_seed(0)
    return Batch(
        video=torch.rand(rows, 1, frames + images, 8, 8) * 2 - 1,
        labels=torch.arange(rows),
        captions=[f"text {i}" for i in range(rows)],
        fps=torch.full((rows,), 8.0),
        num_image_frames=images,
        image_captions=[tuple(f"image {i} {k}" for k in range(images)) for i in range(rows)]
        if images
        else None,
    )


def test_noise_and_loss_by_hand(make_config: MakeConfig) -> None:
    """z = α x + σ ε with ε from the rows' seeds; a network that predicts 0 has the v-loss mean(v²)."""
    config, model, data = make_config(), Recorder(), batch()
    loss, logsnr = Objective(config, CosineSchedule())(model, data, step=5, rows=range(4))
    expected_logsnr = CosineSchedule()(global_times(3, 5, 4))
    assert torch.equal(logsnr, expected_logsnr)
    eps = philox_normal(data.video.shape, noise_seeds(3, 5, range(4)), 0).double()
    alpha, sigma = (a.double()[:, None, None, None, None] for a in alpha_sigma(expected_logsnr))
    torch.testing.assert_close(model.z.double(), alpha * data.video + sigma * eps, rtol=0, atol=1e-5)
    v = alpha * eps - sigma * data.video
    torch.testing.assert_close(loss.double(), v.square().flatten(1).mean(1), rtol=1e-5, atol=0)


def test_micro_batches_are_slices_of_the_batch(make_config: MakeConfig) -> None:
    config, whole, part, data = make_config(), Recorder(), Recorder(), batch()
    objective = Objective(config, CosineSchedule())
    loss, _ = objective(whole, data, step=2, rows=range(4))
    half = Batch(data.video[2:], torch.arange(2, 4), None, data.fps[2:])
    part_loss, _ = objective(part, half, step=2, rows=range(2, 4))
    assert torch.equal(part.z, whole.z[2:])
    assert torch.equal(part.logsnr, whole.logsnr[2:])
    assert torch.equal(part_loss, loss[2:])
    assert whole.conditioning.drop is not None
    assert part.conditioning.drop is not None
    assert torch.equal(part.conditioning.drop, whole.conditioning.drop[2:])


def test_steps_rows_and_seeds_differ(make_config: MakeConfig) -> None:
    model, data, seen = Recorder(), batch(), []
    for seed, step in ((3, 0), (3, 1), (4, 0)):
        config = make_config(f"training.seed={seed}")
        Objective(config, CosineSchedule())(model, data, step=step, rows=range(4))
        seen += list(model.z)
    for i, one in enumerate(seen):
        assert all(not torch.equal(one, other) for other in seen[:i])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_is_of_the_network_only(make_config: MakeConfig, precision: str) -> None:
    model = Recorder()
    config = make_config(f"training.precision={precision}")
    loss, _ = Objective(config, CosineSchedule())(model, batch(), step=0, rows=range(4))
    assert model.autocast is (precision == "bf16")
    assert model.z.dtype == loss.dtype == torch.float32


def test_conditions_are_those_of_the_model(make_config: MakeConfig) -> None:
    def given(*overrides: str) -> Conditioning:
        objective = Objective(make_config(*overrides), CosineSchedule())
        return objective.conditioning(batch(), step=0, rows=range(4))

    assert given().labels is not None
    assert given().fps is None
    assert given("model.fps_conditioning=true").fps is not None
    assert given("training.conditioning_dropout=0").drop is None
    nothing = given("model.num_classes=none")
    assert nothing.labels is None
    assert nothing.drop is None


def encode(texts: list[str]) -> TextEmbedding:
    pooled = torch.tensor([[float(len(text)), float(hash(text) % 97)] for text in texts])
    return TextEmbedding(pooled=pooled, tokens=pooled[:, None].expand(-1, 5, -1))


def test_text_of_videos(make_config: MakeConfig) -> None:
    objective = Objective(make_config("model.num_classes=none"), CosineSchedule(), encode)
    given = objective.conditioning(batch(), step=0, rows=range(4))
    expected = encode([f"text {i}" for i in range(4)])
    assert given.text_embedding is not None
    assert given.text_tokens is not None
    assert given.drop is not None
    assert torch.equal(given.text_embedding, expected.pooled)  # type: ignore[arg-type]
    assert torch.equal(given.text_tokens, expected.tokens)  # type: ignore[arg-type]


def test_text_of_joint_images_is_per_frame(make_config: MakeConfig) -> None:
    objective = Objective(make_config("model.num_classes=none"), CosineSchedule(), encode)
    given = objective.conditioning(batch(2, frames=3, images=2), step=0, rows=range(2))
    assert given.num_image_frames == 2
    assert given.text_embedding is not None
    assert given.text_embedding.shape == (2, 5, 2)
    texts = ["text 1", "text 1", "text 1", "image 1 0", "image 1 1"]
    assert torch.equal(given.text_embedding[1], encode(texts).pooled)  # type: ignore[arg-type]


def test_losses_by_range() -> None:
    loss = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    logsnr = torch.tensor([-20.0, -2.0, 0.0, 2.0, 20.0])
    assert loss_by_logsnr(loss, logsnr) == {
        "loss_logsnr_under_-2": [1.0],
        "loss_logsnr_-2_to_0": [2.0],
        "loss_logsnr_0_to_2": [3.0],
        "loss_logsnr_over_2": [4.0, 5.0],
    }
    assert loss_by_logsnr(loss[:1], logsnr[:1]) == {"loss_logsnr_under_-2": [1.0]}
