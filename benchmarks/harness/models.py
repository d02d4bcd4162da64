"""The networks that whole-model rows run: a preset, or VDM's shape at another width."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.inputs import Inputs
from harness.table import RowKey
from harness.workload import CompileOptions
from vdm.models import Conditioning, VideoUNet, VideoUNetConfig, preset

Network = Callable[[Tensor, Tensor, Conditioning | None], Tensor]


def unet_config(key: RowKey) -> VideoUNetConfig:
    """The preset that the size names, or channel multipliers 1, 2, 4, 8 on `dim` channels."""
    name = key.size.get("preset")
    if isinstance(name, str):
        return preset(name)
    (width,) = key.numbers("dim")
    return VideoUNetConfig(base_channels=width, head_dim=min(64, 2 * width))


def build_unet(key: RowKey) -> VideoUNet:
    """The network in inference mode, with weights that depend on the configuration alone."""
    torch.manual_seed(0)
    model = VideoUNet.from_config(unet_config(key))
    fill_zeros(model)
    return model.to(key.device).eval()


def fill_zeros(model: nn.Module) -> None:
    """Give values to the layers that start at zero, so that a wrong result anywhere shows in the output."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if not parameter.any():
            values = torch.randn(parameter.shape, generator=generator) * 0.02
            with torch.no_grad():
                parameter.copy_(values)


def conditioning(key: RowKey) -> Conditioning | None:
    """A class and a text embedding per video, where the network takes them."""
    config = unet_config(key)
    (batch,) = key.numbers("B")
    labels = text = None
    if config.num_classes is not None:
        labels = torch.arange(batch, device=key.device) % config.num_classes
    if config.text_embedding_dim is not None:
        text = Inputs(key.device, torch.float32).normal(batch, config.text_embedding_dim)
    return (
        Conditioning(labels=labels, text_embedding=text) if labels is not None or text is not None else None
    )


class Autocast(nn.Module):
    """The network in the row's dtype; for bfloat16 the weights stay float32, as in training."""

    def __init__(self, network: Network, key: RowKey) -> None:
        super().__init__()
        self.network, self.key = network, key

    def forward(self, z: Tensor, logsnr: Tensor, condition: Conditioning | None) -> Tensor:
        low = self.key.dtype == torch.bfloat16
        with torch.autocast(self.key.device, dtype=torch.bfloat16, enabled=low):
            return self.network(z, logsnr, condition)


def autocast(network: Network, key: RowKey) -> Network:
    """The network in the row's dtype, still a module."""
    return Autocast(network, key)


def inference_options(key: RowKey) -> CompileOptions:
    """The best that `torch.compile` has for inference: autotuning, and weights as constants or CUDA graphs."""
    return {"max_autotune": True, "triton.cudagraphs" if key.device == "cuda" else "freezing": True}
