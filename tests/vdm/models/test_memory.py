"""Peak memory of the U-Net: with kernels not above that of the same network on the reference."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vdm_kernels import native

# A process of its own for each backend, whose peak includes what kernels allocate past torch; a few calls, until
# weights that are kept have been. Megabytes over what the weights and the process itself take.
SCRIPT = """
import json, sys
from pathlib import Path

import torch
import vdm_kernels
from vdm import VideoUNet

def status(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) / 2**10

def peak(call):
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what there is now
    for _ in range(3):
        call()
    return status("VmHWM") - before

torch.set_num_threads(1)
vdm_kernels.set_allocator_policy()
sizes = {"channel_multipliers": (1, 2, 4), "num_blocks": 1, "attention_levels": (1, 2), "head_dim": 16}
model = VideoUNet(base_channels=16, **sizes)
x, logsnr = torch.randn(1, 3, 4, 64, 64), torch.zeros(1)
optimizer = torch.optim.AdamW(model.parameters(), fused=True)

def infer():
    with torch.no_grad():
        model(x, logsnr)

def train():
    optimizer.zero_grad()
    (model(x, logsnr) - x).square().mean().backward()
    optimizer.step()

backend = sys.argv[1]
with vdm_kernels.use_backend(backend):
    VideoUNet(base_channels=16, **sizes)(x[..., :16, :16], logsnr).sum().backward()  # loads what is loaded once
    print(json.dumps({"infer": peak(infer), "train": peak(train)}))
"""


def peaks(backend: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, backend], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    megabytes: dict[str, float] = json.loads(done.stdout)
    return megabytes


@pytest.mark.skipif(native.C is None, reason=str(native.WHY_NOT))
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is Linux's to say"
)
def test_peak_memory_is_not_above_the_reference() -> None:
    ours, reference = peaks("native"), peaks("reference")
    assert reference["train"] > reference["infer"] > 5  # the process itself does not count
    for mode in reference:
        assert ours[mode] < reference[mode], mode
