"""Folders of images, for joint training on videos and images."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from vdm.data.arguments import check_bool, check_choice, check_size
from vdm.data.clip import Clip
from vdm.data.media_folder import MediaFolder
from vdm.data.pixels import from_uint8
from vdm.data.video_index import PASSING_FAULTS, UnreadableFileError
from vdm.data.view import View

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class ImageFolder(MediaFolder):
    """The images below a folder, as clips with F = 1 and fps = 1.

    Classes, captions and broken files: see `MediaFolder`.

    Args:
        root: the folder.
        size: H = W, or (H, W): images are scaled to cover it and cropped to it.
        channels: 3, or 1 for luma.
        seed: of all draws.
        crop: "random" or "center".
        horizontal_flip: mirror half of the images.
        extensions: of the files to use.
        labels: take classes from folders.

    Raises:
        ValueError: an argument out of its range, or a folder without any usable file.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        size: int | tuple[int, int],
        channels: int = 3,
        seed: int = 0,
        crop: str = "random",
        horizontal_flip: bool = False,
        extensions: Sequence[str] = IMAGE_EXTENSIONS,
        labels: bool = True,
    ) -> None:
        where = type(self).__name__
        self.image_size = check_size(where, "size", size)
        self.channels = check_choice(where, "channels", channels, (1, 3))
        self.crop = check_choice(where, "crop", crop, ("random", "center"))
        self.horizontal_flip = check_bool(where, "horizontal_flip", horizontal_flip)
        super().__init__(root, seed=seed, extensions=extensions, labels=labels)
        self._unreadable: dict[int, str] = {}
        self._require_one_usable(lambda file: self._load(file, np.random.default_rng(0)))

    def _load(self, file: int, rng: np.random.Generator) -> Clip:
        view = View.draw(
            rng,
            size=self.image_size,
            channels=self.channels,
            crop=self.crop,
            horizontal_flip=self.horizontal_flip,
        )
        caption = self._caption(file)
        picture = self._read(file, view)
        return Clip(video=from_uint8(picture[None]), label=self._label(file), caption=caption, fps=1.0)

    _load_frame = _load

    def _read(self, file: int, view: View) -> np.ndarray:
        if file in self._unreadable:
            raise UnreadableFileError(self._unreadable[file])
        try:
            with Image.open(self.root / self.files[file]) as image:
                return view.of_image(image)
        except UnidentifiedImageError as error:
            self._unreadable[file] = "it is not an image"
            raise UnreadableFileError(self._unreadable[file]) from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            if isinstance(error, OSError) and error.errno in PASSING_FAULTS:
                raise
            self._unreadable[file] = str(error)
            raise UnreadableFileError(str(error)) from error
