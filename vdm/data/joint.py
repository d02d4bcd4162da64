"""Joint training on videos and images."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from vdm.data.arguments import check_int
from vdm.data.clip import Clip
from vdm.data.draws import DrawDataset

# The images' random numbers, apart from those of the videos' own draws.
_IMAGE_STREAM = 0x696D6773


class JointImageVideo(DrawDataset):
    """Videos with independent images appended to their frames (Ho et al. 2022, arXiv 2204.03458, section 3).

    Draw i is the i-th draw of `videos`, followed on the F axis by `num_images` random images: from
    `images`, or else random frames of random videos of the same data set. Where there are classes, labels
    are per frame: (F + K,); what comes from a data set without classes gets the null label, len(classes).
    `caption` remains the video's; the images' are in `image_captions` where they all have one.

    Args:
        videos: the videos.
        images: the images (an `ImageFolder`, or videos whose frames to take); by default, frames of `videos`.
        num_images: K.

    Raises:
        ValueError: an argument of the wrong kind, or both data sets have classes and these differ.
    """

    def __init__(self, videos: DrawDataset, images: DrawDataset | None = None, *, num_images: int) -> None:
        where = type(self).__name__
        for name, dataset in (("videos", videos), ("images", images)):
            if not isinstance(dataset, DrawDataset) and (name, dataset) != ("images", None):
                raise ValueError(f"{where}: {name} must be a DrawDataset, got {type(dataset).__name__}")
        super().__init__(seed=videos.seed)
        self.num_images = check_int(where, "num_images", num_images, minimum=1)
        self._videos = videos
        self._images = videos if images is None else images
        if self._videos.classes and self._images.classes and self._videos.classes != self._images.classes:
            raise ValueError(
                f"{where}: videos and images must have the same classes (or one of them labels=False), "
                f"got {self._videos.classes} and {self._images.classes}"
            )
        self.classes = self._videos.classes or self._images.classes

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> Clip:
        draw, _, _ = self._locate(index)
        clip = self._videos[draw]
        rng = np.random.default_rng([self.seed, draw, _IMAGE_STREAM])
        images = [self._images.draw_frame(rng) for _ in range(self.num_images)]
        for image in images:
            expected = (clip.video.shape[0], 1, *clip.video.shape[2:])
            if tuple(image.video.shape) != expected:
                raise ValueError(
                    f"{type(self).__name__}: images must have shape {expected}, as the videos, "
                    f"got {tuple(image.video.shape)}"
                )
        captions = [image.caption for image in images if image.caption is not None]
        return dataclasses.replace(
            clip,
            video=torch.cat([clip.video, *(image.video for image in images)], dim=1),
            label=self._frame_labels(clip, images),
            num_image_frames=self.num_images,
            image_captions=tuple(captions) if len(captions) == len(images) else None,
        )

    def draw_frame(self, rng: np.random.Generator) -> Clip:
        return self._images.draw_frame(rng)

    def _frame_labels(self, clip: Clip, images: list[Clip]) -> torch.Tensor | None:
        if self.classes is None:
            return None
        null = len(self.classes)
        labels = [clip.label] * clip.video.shape[1] + [image.label for image in images]
        return torch.tensor([null if label is None else label for label in labels], dtype=torch.int64)
