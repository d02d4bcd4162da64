"""Calls of the sampler steps that tests share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vdm_kernels.testing import Sample, tensors


def step_samples(dtype: torch.dtype, device: torch.device | str, strength: str) -> list[Sample]:
    """One call for each thing that can go wrong; `strength` names gamma or eta."""
    normal = tensors(dtype, device)

    def sample(name: str, z: Tensor, parameterization: str, large: bool = False, **changes: object) -> Sample:
        batch = z.shape[0]
        logsnr_t = torch.linspace(-3.0, 2.0, batch, device=device)
        arguments = {
            "z": z,
            "prediction": normal(*z.shape),
            "logsnr_t": logsnr_t,
            "logsnr_s": logsnr_t + torch.linspace(0.1, 3.0, batch, device=device),
            "seed": torch.arange(batch, device=device) * 2**35 - 9,
            "draw": 3,
            "parameterization": parameterization,
            strength: 0.3,
        }
        return Sample(name, {**arguments, **changes}, large=large)

    def per_sample(*values: float) -> Tensor:
        return torch.tensor(values, device=device)

    def at_strength(value: float) -> dict[str, Any]:
        return {strength: value}

    video = (2, 3, 4, 6, 6)
    guided: dict[str, Any] = {"uncond": normal(*video), "guidance_weight": 2.5}
    narrow = torch.bfloat16 if dtype == torch.float32 else dtype
    extremes: dict[str, Any] = {"logsnr_t": per_sample(-20.0, 19.5), "logsnr_s": per_sample(-19.5, 20.0)}
    exploding: dict[str, Any] = {
        "logsnr_t": per_sample(-8.0, 3.0),
        "logsnr_s": per_sample(-7.0, 8.0),
        "variance_preserving": False,
    }
    return [
        sample("eps", normal(*video), "eps"),
        sample("x", normal(*video), "x"),
        sample("v", normal(*video), "v"),
        sample("deterministic", normal(*video), "v", **at_strength(0.0)),
        sample("full_strength", normal(*video), "eps", **at_strength(1.0)),
        sample("guided", normal(*video), "v", **guided),
        sample("clipped", normal(*video), "eps", threshold=1.0),
        sample(
            "guided_thresholded",
            normal(*video),
            "x",
            uncond=normal(*video),
            guidance_weight=per_sample(0.5, 4.0),
            threshold=per_sample(0.7, 1.6),
        ),
        sample("odd", normal(3, 3, 1, 7, 5), "v", threshold=1.0),
        sample("one_element", normal(1, 1), "eps"),
        sample("empty_batch", normal(0, 3, 2, 4, 4), "v", threshold=1.0),
        sample(
            "non_contiguous",
            normal(2, 4, 5, 6, 3).movedim(-1, 1),
            "v",
            prediction=normal(4, 2, 3, 5, 6).movedim(0, 2),
            uncond=normal(1, 3, 4, 5, 6).expand(2, -1, -1, -1, -1),
            guidance_weight=torch.tensor(1.5, device=device),
            threshold=1.2,
        ),
        sample("low_precision_prediction", normal(*video), "v", prediction=normal(*video).to(narrow)),
        sample(
            "low_precision_guided",
            normal(2, 3, 37),
            "eps",
            prediction=normal(2, 3, 37).to(narrow),
            uncond=normal(2, 3, 37).to(narrow),
            guidance_weight=3.0,
            threshold=1.0,
        ),
        sample("extremes_clipped", normal(2, 3, 37), "eps", threshold=1.0, **extremes),
        sample("extremes_v", normal(2, 3, 37), "v", **extremes),
        sample("variance_exploding_eps", 40.0 * normal(2, 3, 37), "eps", **exploding),
        sample("variance_exploding_v", 40.0 * normal(2, 3, 37), "v", **exploding),
        sample("draw_tensor", normal(2, 37), "v", draw=torch.tensor([2**34], device=device)),
        sample("threads", normal(2, 3, 16, 65, 67), "v", threshold=1.0, large=True),
    ]


def bad_step_samples(device: torch.device | str, strength: str) -> list[Sample]:
    """Calls that are refused; each is named after the argument at fault."""
    good = step_samples(torch.float32, device, strength)[0].arguments
    z, logsnr = good["z"], good["logsnr_t"]
    guided: dict[str, Any] = {"uncond": z, "guidance_weight": 1.0}

    def bad(name: str, value: object, **others: object) -> Sample:
        return Sample(name, {**good, **others, name: value})

    return [
        bad("z", 1.0),
        bad("z", z.int()),
        bad("z", z.sum()),
        bad("prediction", None),
        bad("prediction", z[:1]),
        bad("prediction", z.double()),
        bad("logsnr_t", 0.5),
        bad("logsnr_t", logsnr[:1]),
        bad("logsnr_t", logsnr.half()),
        bad("logsnr_t", logsnr.clone().requires_grad_()),
        bad("logsnr_s", logsnr[None]),
        bad("logsnr_s", logsnr.clone().requires_grad_()),
        bad("seed", good["seed"].int()),
        bad("seed", good["seed"][:1]),
        bad("draw", "0"),
        bad("draw", -(2**63) - 1),
        bad("parameterization", "score"),
        bad(strength, -0.1),
        bad(strength, 1.5),
        bad(strength, float("nan")),
        bad("uncond", None, guidance_weight=1.0),
        bad("guidance_weight", None, uncond=z),
        bad("uncond", z[:1], guidance_weight=1.0),
        bad("uncond", z.half(), guidance_weight=1.0),
        bad("guidance_weight", "2", uncond=z),
        bad("guidance_weight", logsnr[:1], uncond=z),
        bad("guidance_weight", logsnr.clone().requires_grad_(), uncond=z),
        bad("threshold", -1.0, **guided),
        bad("threshold", float("nan")),
        bad("threshold", logsnr.double()),
        bad("threshold", logsnr.clone().requires_grad_()),
    ]
