"""Calls every op that has native CUDA kernels once on aligned and on ragged sizes, for compute-sanitizer to watch."""

from __future__ import annotations

from typing import Any

import torch

import vdm_kernels


def main() -> None:
    """One call per kind of launch; the results are compared by the tests."""
    seed = torch.tensor([3, -4], device="cuda")
    draw = torch.tensor(1, device="cuda")
    early = torch.tensor([-2.0, 1.0], device="cuda")
    plain: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for shape in ((2, 3, 4, 16, 16), (2, 3, 1, 7, 5), (2, 80_001)):
            z = torch.randn(shape, device="cuda").to(dtype).requires_grad_()
            prediction = torch.randn(shape, device="cuda").to(dtype).requires_grad_()
            with vdm_kernels.use_backend("native"):
                vdm_kernels.philox_normal(shape, seed, draw, dtype=dtype)
                vdm_kernels.q_sample(z.detach(), early, seed, draw)
                threshold = vdm_kernels.abs_quantile(prediction.detach(), 0.995)
                guided = {
                    "uncond": prediction.detach(),
                    "guidance_weight": 2.0,
                    "threshold": threshold.float(),
                }
                for step in (vdm_kernels.ancestral_step, vdm_kernels.ddim_step):
                    for extra in (plain, guided):
                        z_s = step(z, prediction, early, early + 1, seed, draw, parameterization="v", **extra)
                        torch.autograd.grad(z_s, (z, prediction), torch.ones_like(z_s))
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
