"""Video diffusion models that train, sample and extend videos, on fused kernels."""

from vdm.models import PRESETS, Conditioning, VideoUNet, VideoUNetConfig, preset

__version__ = "0.1.0"

__all__ = ["PRESETS", "Conditioning", "VideoUNet", "VideoUNetConfig", "__version__", "preset"]
