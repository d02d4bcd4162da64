"""Models: the 3D U-Net, its configuration and presets, and what it is conditioned on."""

from vdm.models.conditioning import Conditioning
from vdm.models.config import VideoUNetConfig
from vdm.models.presets import PRESETS, parameter_table, preset
from vdm.models.video_unet import VideoUNet

__all__ = ["PRESETS", "Conditioning", "VideoUNet", "VideoUNetConfig", "parameter_table", "preset"]
