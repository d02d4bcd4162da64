"""From `Conditioning` to what the U-Net reads: checks, channels, text tokens, positions, segments."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vdm.models.conditioning import Conditioning
from vdm.models.config import VideoUNetConfig


def _error(message: str) -> ValueError:
    return ValueError(f"VideoUNet: {message}")


# Messages are made where a check has failed and nowhere else: torch.compile would turn a size that is put into
# a string into a constant.
def _check_shape(name: str, value: Tensor, *shapes: tuple[int, ...]) -> None:
    if tuple(value.shape) not in shapes:
        wanted = " or ".join(str(shape) for shape in shapes)
        raise _error(f"{name} must have shape {wanted}, got {tuple(value.shape)}")


def check_inputs(x: Tensor, logsnr: Tensor, conditioning: Conditioning, config: VideoUNetConfig) -> None:
    """Check the shapes of a forward pass, and its conditions against the configuration.

    Raises:
        ValueError: as `VideoUNet.forward`.
    """
    if x.ndim != 5:
        raise _error(f"x must be (B, C, F, H, W), got {x.ndim} dimensions")
    if not x.is_floating_point():
        raise _error(f"x must be floating point, got {x.dtype}")
    b, c, f, h, w = x.shape
    if c != config.in_channels:
        raise _error(f"x must have in_channels={config.in_channels} channels, got {c}")
    if f < 1:
        raise _error(f"x needs at least one frame, got F={f}")
    divisor, limit = config.size_divisor, config.spatial_bias_size
    if h < 1 or w < 1 or h % divisor or w % divisor:
        raise _error(
            f"height and width must be positive multiples of {divisor} for {config.num_levels} levels, "
            f"got H={h}, W={w}"
        )
    if limit is not None and (h > limit or w > limit):
        raise _error(f"height and width must be at most spatial_bias_size={limit}, got H={h}, W={w}")
    _check_shape("logsnr", logsnr, (b,))
    if not logsnr.is_floating_point():
        raise _error(f"logsnr must be floating point, got {logsnr.dtype}")
    images = conditioning.num_image_frames
    if images < 0 or images > f:
        raise _error(f"num_image_frames must be in 0..F={f}, got {images}")
    if images and config.norm_scope != "frame":
        raise _error(
            f'num_image_frames needs norm_scope="frame" (per-video statistics mix frames), got {images}'
        )
    _check_needed(conditioning, config)
    _check_labels(conditioning, config, b, f)
    _check_embedded(conditioning, config, b, f)
    _check_concatenated(conditioning, config, x)


def _check_needed(conditioning: Conditioning, config: VideoUNetConfig) -> None:
    """A condition is given exactly where the model was built for it."""
    low_res = config.low_res_channels > 0
    for name, built, option in (
        ("labels", config.num_classes is not None, "num_classes"),
        ("text_embedding", config.text_embedding_dim is not None, "text_embedding_dim"),
        ("text_tokens", config.text_token_dim is not None, "text_token_dim"),
        ("fps", config.fps_conditioning, "fps_conditioning"),
        ("low_res", low_res, "low_res_channels"),
        ("low_res_logsnr", low_res, "low_res_channels"),
    ):
        given = getattr(conditioning, name) is not None
        if given and not built:
            raise _error(f"{name} needs a model with {option}, got one without")
        if built and not given:
            raise _error(f"a model with {option} needs Conditioning.{name}, got none")
    frames, mask = conditioning.known_frames is not None, conditioning.known_mask is not None
    if (frames or mask) and not config.known_frames:
        raise _error("known_frames needs a model with known_frames, got one without")
    if frames != mask:
        raise _error("known_frames and known_mask must be given together, got one of them")
    if conditioning.text_mask is not None and conditioning.text_tokens is None:
        raise _error("text_mask needs text_tokens, got none")


def _check_labels(conditioning: Conditioning, config: VideoUNetConfig, b: int, f: int) -> None:
    labels, classes = conditioning.labels, config.num_classes
    if labels is None or classes is None:
        return
    _check_shape("labels", labels, (b,), (b, f))
    if labels.dtype not in (torch.int64, torch.int32):
        raise _error(f"labels must be integers, got {labels.dtype}")
    # On other devices the lookup checks; reading the values there would wait for the device.
    if labels.device.type == "cpu" and not torch.compiler.is_compiling() and labels.numel() > 0:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high > classes:
            raise _error(f"labels must be in 0..{classes} (the null class), got {low}..{high}")


def _check_embedded(conditioning: Conditioning, config: VideoUNetConfig, b: int, f: int) -> None:
    text, tokens, mask = conditioning.text_embedding, conditioning.text_tokens, conditioning.text_mask
    if text is not None and config.text_embedding_dim is not None:
        _check_shape(
            "text_embedding", text, (b, config.text_embedding_dim), (b, f, config.text_embedding_dim)
        )
    if tokens is not None and config.text_token_dim is not None:
        length = tokens.shape[1] if tokens.ndim == 3 else 0
        _check_shape("text_tokens", tokens, (b, length, config.text_token_dim))
        if mask is not None:
            _check_shape("text_mask", mask, (b, length))
    for name, value in (("fps", conditioning.fps), ("low_res_logsnr", conditioning.low_res_logsnr)):
        if value is not None:
            _check_shape(name, value, (b,))
    if conditioning.drop is not None:
        _check_shape("drop", conditioning.drop, (b,))
    for name, value in (("drop", conditioning.drop), ("text_mask", mask)):
        if value is not None and value.dtype != torch.bool:
            raise _error(f"{name} must be bool, got {value.dtype}")
    positions = conditioning.frame_positions
    if positions is not None:
        _check_shape("frame_positions", positions, (b, f))
        if positions.is_floating_point():
            raise _error(f"frame_positions must be integers, got {positions.dtype}")


def _check_concatenated(conditioning: Conditioning, config: VideoUNetConfig, x: Tensor) -> None:
    b, c, f, h, w = x.shape
    low_res = conditioning.low_res
    if low_res is not None:
        channels, images = config.low_res_channels, conditioning.num_image_frames
        if low_res.ndim != 5 or tuple(low_res.shape[:2]) != (b, channels) or min(low_res.shape[2:]) < 1:
            raise _error(f"low_res must be ({b}, {channels}, F', H', W'), got {tuple(low_res.shape)}")
        frames, video = low_res.shape[2] - images, f - images
        if (frames != 0) if video == 0 else (frames < 1 or video % frames):
            raise _error(
                f"low_res needs a divisor of {video} video frames and {images} images, "
                f"got F'={low_res.shape[2]}"
            )
    if conditioning.known_frames is not None and conditioning.known_mask is not None:
        _check_shape("known_frames", conditioning.known_frames, (b, c, f, h, w))
        _check_shape("known_mask", conditioning.known_mask, (b, f), (b, 1, f, h, w))


def upsample_low_res(low_res: Tensor, x: Tensor, *, num_image_frames: int) -> Tensor:
    """A low-resolution video at the size of x: bilinear in space, repeated in time (Imagen Video).

    Args:
        low_res: (B, C, F', H', W'); the last num_image_frames frames are images, the others repeat.
        x: (B, _, F, H, W).

    Returns:
        (B, C, F, H, W) in x's dtype.
    """
    b, c, frames, h, w = low_res.shape
    size = x.shape[3:]
    images = low_res.to(x.dtype).transpose(1, 2).reshape(b * frames, c, h, w)
    if (h, w) != size:
        images = functional.interpolate(
            images, size=size, mode="bilinear", align_corners=False, antialias=False
        )
    upsampled = images.view(b, frames, c, *size).transpose(1, 2)
    kept = frames - num_image_frames
    if kept == x.shape[2] - num_image_frames:
        return upsampled
    video = upsampled[:, :, :kept].repeat_interleave((x.shape[2] - num_image_frames) // kept, dim=2)
    return torch.cat([video, upsampled[:, :, kept:]], dim=2)


def concatenate_inputs(x: Tensor, conditioning: Conditioning, *, known_frames: bool) -> Tensor:
    """The first convolution's input: x, the low-resolution video, known frames and mask, channels-last.

    Args:
        x: (B, C, F, H, W) in any layout.
        conditioning: checked.
        known_frames: whether the model reads known frames; where none are given, none are known.
    """
    parts = [x]
    if conditioning.low_res is not None:
        parts.append(
            upsample_low_res(conditioning.low_res, x, num_image_frames=conditioning.num_image_frames)
        )
    if known_frames:
        b, _, f, h, w = x.shape
        if conditioning.known_frames is None or conditioning.known_mask is None:
            parts += [torch.zeros_like(x), x.new_zeros(b, 1, f, h, w)]
        else:
            mask = conditioning.known_mask
            mask = mask.view(b, 1, f, 1, 1) if mask.ndim == 2 else mask
            known = torch.where(mask != 0, conditioning.known_frames.to(x.dtype) * mask.to(x.dtype), 0.0)
            parts += [known, mask.to(x.dtype).expand(b, 1, f, h, w)]
    joined = torch.cat(parts, dim=1) if len(parts) > 1 else x
    return joined.contiguous(memory_format=torch.channels_last_3d)


def frame_positions(x: Tensor, conditioning: Conditioning) -> Tensor:
    """The frames' positions, (F,) or (B, F) integers. Images stand at the first frame; any would do."""
    frames, images = x.shape[2], conditioning.num_image_frames
    given = conditioning.frame_positions
    if given is None:
        return torch.cat(
            [
                torch.arange(frames - images, device=x.device),
                torch.zeros(images, dtype=torch.int64, device=x.device),
            ]
        )
    given = given.to(torch.int64)
    if images == 0:
        return given
    return torch.cat([given[:, : frames - images], given[:, :1].expand(-1, images)], dim=1)


def segment_ids(x: Tensor, conditioning: Conditioning) -> Tensor | None:
    """(B, F) integers: 0 for the video's frames, a number of its own for each image; None without images."""
    images = conditioning.num_image_frames
    if images == 0:
        return None
    video = x.shape[2] - images
    ids = (torch.arange(x.shape[2], device=x.device) - video + 1).clamp(min=0)
    return ids.expand(x.shape[0], -1).contiguous()


class TextTokens(nn.Module):
    """Text tokens with a learned null token in front, which is all that a dropped row attends to."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.null = nn.Parameter(0.02 * torch.randn(dim))

    def forward(self, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """Tokens (B, 1 + L, D) and the attention mask (B, 1, 1, 1 + L)."""
        tokens = conditioning.text_tokens
        assert tokens is not None
        b, length, dim = tokens.shape
        text = torch.cat([self.null.expand(b, 1, dim), tokens.to(self.null.dtype)], dim=1)
        mask = conditioning.text_mask
        mask = torch.ones(b, length, dtype=torch.bool, device=tokens.device) if mask is None else mask
        if conditioning.drop is not None:
            mask = mask & ~conditioning.drop.unsqueeze(1)
        mask = torch.cat([mask.new_ones(b, 1), mask], dim=1)
        return text, mask.view(b, 1, 1, length + 1)
