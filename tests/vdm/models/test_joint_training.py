"""Joint image-video training: nothing crosses between the video and the images, or between images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vdm.models import Conditioning, VideoUNet

LOGSNR = torch.tensor([0.3, -1.0])


def joint(model: VideoUNet, video: Tensor, images: Tensor, **fields: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs for the video's frames and for the images of one row each."""
    x = torch.cat([video, images], dim=2)
    out = model(x, LOGSNR.to(x), Conditioning(num_image_frames=images.shape[2], **fields))
    return out[:, :, : video.shape[2]], out[:, :, video.shape[2] :]


@pytest.mark.parametrize("kind", ["t5", "distance", "network"])
def test_nothing_leaks(make_model: Callable[..., VideoUNet], kind: str) -> None:
    torch.manual_seed(1)
    model = make_model(relative_bias=kind, relative_bias_max_distance=10)
    video, images = torch.randn(2, 2, 5, 8, 8), torch.randn(2, 2, 3, 8, 8)
    with torch.no_grad():
        video_out, images_out = joint(model, video, images)
        # The video, whatever the images are, and without them.
        changed = torch.randn(2, 2, 3, 8, 8) * 100
        torch.testing.assert_close(joint(model, video, changed)[0], video_out, rtol=0, atol=1e-6)
        torch.testing.assert_close(model(video, LOGSNR), video_out, rtol=1e-5, atol=1e-5)
        # An image, whatever the video and the other images are, and alone.
        others = images.clone()
        others[:, :, 1:] = changed[:, :, 1:]
        alone = joint(model, 100 * video, others)[1][:, :, :1]
        torch.testing.assert_close(alone, images_out[:, :, :1], rtol=0, atol=1e-6)
        for i in range(3):
            one = model(images[:, :, i : i + 1], LOGSNR)
            torch.testing.assert_close(images_out[:, :, i : i + 1], one, rtol=1e-5, atol=1e-5)


def test_video_frames_do_see_each_other(make_model: Callable[..., VideoUNet]) -> None:
    torch.manual_seed(1)
    model = make_model()
    video, images = torch.randn(2, 2, 5, 8, 8), torch.randn(2, 2, 3, 8, 8)
    with torch.no_grad():
        before = joint(model, video, images)[0]
        video[:, :, 4] += 1
        after = joint(model, video, images)[0]
    assert (after - before)[:, :, :4].abs().amax(dim=(0, 1, 3, 4)).min() > 1e-5


def test_no_gradient_crosses(make_model: Callable[..., VideoUNet]) -> None:
    torch.manual_seed(1)
    model = make_model()
    x = torch.randn(2, 2, 6, 4, 4, requires_grad=True)
    out = model(x, LOGSNR, Conditioning(num_image_frames=2))
    for frame, reached in ((1, [0, 1, 2, 3]), (4, [4]), (5, [5])):
        (gradient,) = torch.autograd.grad(out[:, :, frame].square().sum(), x, retain_graph=True)
        per_frame = gradient.abs().amax(dim=(0, 1, 3, 4))
        assert per_frame.nonzero().flatten().tolist() == reached


def test_conditions_per_frame_stay_in_their_frame(make_model: Callable[..., VideoUNet]) -> None:
    torch.manual_seed(1)
    model = make_model(num_classes=5, text_embedding_dim=3, low_res_channels=2, known_frames=True)
    video, images = torch.randn(2, 2, 4, 8, 8), torch.randn(2, 2, 2, 8, 8)
    labels = torch.tensor([[1, 1, 1, 1, 2, 3], [4, 4, 4, 4, 0, 5]])
    fields = {
        "labels": labels,
        "text_embedding": torch.randn(2, 6, 3),
        "low_res": torch.randn(2, 2, 4, 4, 4),  # two video frames, each repeated, and two images
        "low_res_logsnr": torch.ones(2),
        "known_frames": torch.randn(2, 2, 6, 8, 8),
        "known_mask": torch.tensor([[1, 0, 0, 0, 0, 1]] * 2),
    }
    with torch.no_grad():
        video_out, images_out = joint(model, video, images, **fields)
        for name, value in fields.items():
            if name == "low_res_logsnr":
                continue
            changed = value.clone()
            last = (
                (slice(None), slice(None), -1) if name in ("low_res", "known_frames") else (slice(None), -1)
            )
            changed[last] = (5 if name == "labels" else 1) - changed[last]
            new_video, new_images = joint(model, video, images, **{**fields, name: changed})
            torch.testing.assert_close(new_video, video_out, rtol=0, atol=1e-6)
            torch.testing.assert_close(new_images[:, :, 0], images_out[:, :, 0], rtol=0, atol=1e-6)
            assert (new_images[:, :, 1] - images_out[:, :, 1]).abs().max() > 1e-4, name


def test_a_row_of_images_only(make_model: Callable[..., VideoUNet]) -> None:
    model = make_model()
    images = torch.randn(2, 2, 3, 4, 4)
    with torch.no_grad():
        out = model(images, LOGSNR, Conditioning(num_image_frames=3))
        one = model(images[:, :, 2:], LOGSNR)
    torch.testing.assert_close(out[:, :, 2:], one, rtol=1e-5, atol=1e-5)


def test_positions_of_images_make_no_difference(make_model: Callable[..., VideoUNet]) -> None:
    model = make_model(relative_bias="distance", relative_bias_max_distance=10)
    x = torch.randn(2, 2, 4, 4, 4)
    outs = []
    for position in (0, 5000):
        positions = torch.tensor([[20, 21, 24, position]] * 2)
        outs.append(model(x, LOGSNR, Conditioning(num_image_frames=1, frame_positions=positions)))
    assert torch.equal(outs[0], outs[1])


def test_statistics_over_the_video_cannot_be_joint(make_model: Callable[..., VideoUNet]) -> None:
    model = make_model(norm_scope="video")
    with pytest.raises(ValueError, match='num_image_frames needs norm_scope="frame"'):
        model(torch.randn(2, 2, 4, 4, 4), LOGSNR, Conditioning(num_image_frames=1))
