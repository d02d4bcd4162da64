"""Folders of video files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vdm.data.arguments import check_bool, check_choice, check_int, check_positive, check_size
from vdm.data.clip import Clip
from vdm.data.media_folder import MediaFolder
from vdm.data.pixels import from_uint8
from vdm.data.video_index import FrameIndex, UnreadableFileError
from vdm.data.video_reader import VideoReader
from vdm.data.view import View

VIDEO_EXTENSIONS = (".mp4", ".webm", ".avi", ".gif", ".mkv", ".mov")


class VideoFolder(MediaFolder):
    """Clips of the video files below a folder, at random positions.

    A clip is either every `frame_skip`-th frame of its file, or, with `fps`, the frames nearest to the
    times of a video of that rate (repeated where the file is slower). Files are opened when they are drawn;
    of a long file, only what lies between the key frame before a clip and its end is decoded. Classes,
    captions and broken files: see `MediaFolder`.

    Args:
        root: the folder.
        num_frames: F.
        size: H = W, or (H, W): frames are scaled to cover it and cropped to it.
        frame_skip: take every frame_skip-th frame.
        fps: resample to this rate instead; then frame_skip must be 1.
        channels: 3, or 1 for luma.
        seed: of all draws.
        clip_position: "random", "start" or "center" of the file.
        crop: "random" or "center".
        horizontal_flip: mirror half of the clips.
        extensions: of the files to use.
        labels: take classes from folders.

    Raises:
        ValueError: an argument out of its range, or a folder without any usable file.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        num_frames: int,
        size: int | tuple[int, int],
        frame_skip: int = 1,
        fps: float | None = None,
        channels: int = 3,
        seed: int = 0,
        clip_position: str = "random",
        crop: str = "random",
        horizontal_flip: bool = False,
        extensions: Sequence[str] = VIDEO_EXTENSIONS,
        labels: bool = True,
    ) -> None:
        where = type(self).__name__
        self.num_frames = check_int(where, "num_frames", num_frames, minimum=1)
        self.image_size = check_size(where, "size", size)
        self.frame_skip = check_int(where, "frame_skip", frame_skip, minimum=1)
        self.fps = None if fps is None else check_positive(where, "fps", fps)
        if self.fps is not None and self.frame_skip != 1:
            raise ValueError(f"{where}: frame_skip must be 1 where fps is given, got {frame_skip}")
        self.channels = check_choice(where, "channels", channels, (1, 3))
        self.clip_position = check_choice(
            where, "clip_position", clip_position, ("random", "start", "center")
        )
        self.crop = check_choice(where, "crop", crop, ("random", "center"))
        self.horizontal_flip = check_bool(where, "horizontal_flip", horizontal_flip)
        super().__init__(root, seed=seed, extensions=extensions, labels=labels)
        self._reader = VideoReader()
        view = View(size=(1, 1), channels=1)
        self._require_one_usable(lambda file: self._reader.read(self._path(file), self._choose(0.0), view))

    def _load(self, file: int, rng: np.random.Generator) -> Clip:
        return self._read(file, rng, self._choose)

    def _load_frame(self, file: int, rng: np.random.Generator) -> Clip:
        return self._read(file, rng, _choose_one)

    def _read(
        self,
        file: int,
        rng: np.random.Generator,
        choose: Callable[[float], Callable[[FrameIndex], np.ndarray]],
    ) -> Clip:
        view = View.draw(
            rng,
            size=self.image_size,
            channels=self.channels,
            crop=self.crop,
            horizontal_flip=self.horizontal_flip,
        )
        caption = self._caption(file)
        frames, index = self._reader.read(self._path(file), choose(rng.random()), view)
        return Clip(
            video=from_uint8(frames),
            label=self._label(file),
            caption=caption,
            fps=index.fps / self.frame_skip if self.fps is None else self.fps,
        )

    def _path(self, file: int) -> Path:
        return self.root / self.files[file]

    def _choose(self, position: float) -> Callable[[FrameIndex], np.ndarray]:
        """Returns the choice of a clip's frames, given a random number in [0, 1)."""
        position = {"random": position, "start": 0.0, "center": 0.5}[self.clip_position]

        def choose(index: FrameIndex) -> np.ndarray:
            if self.fps is None:
                return skip_frames(index, self.num_frames, self.frame_skip, position)
            return resample_frames(index, self.num_frames, self.fps, position)

        return choose


def _choose_one(position: float) -> Callable[[FrameIndex], np.ndarray]:
    return lambda index: skip_frames(index, 1, 1, position)


def skip_frames(index: FrameIndex, num_frames: int, frame_skip: int, position: float) -> np.ndarray:
    """Returns the numbers of `num_frames` frames, `frame_skip` apart, at `position` in [0, 1) of what fits.

    Raises:
        UnreadableFileError: the video has too few frames.
    """
    span = (num_frames - 1) * frame_skip + 1
    if span > len(index):
        raise UnreadableFileError(
            f"it has {len(index)} frames, {span} are needed "
            f"(num_frames={num_frames}, frame_skip={frame_skip})"
        )
    start = int(position * (len(index) - span + 1))
    return np.arange(start, start + span, frame_skip)


def resample_frames(index: FrameIndex, num_frames: int, fps: float, position: float) -> np.ndarray:
    """Returns the numbers of the frames nearest to times t, t + 1 / fps, ..., where t is some frame's own.

    Raises:
        UnreadableFileError: the video is too short.
    """
    seconds = index.seconds
    span = (num_frames - 1) / fps
    # The last frame is shown for half a frame's time, at least, beyond its own.
    end = seconds[-1] + 0.5 / index.fps
    starts = int(np.searchsorted(seconds, end - span, side="right"))
    if span > end or starts == 0:
        raise UnreadableFileError(
            f"it lasts {seconds[-1] + 1 / index.fps:.3g} s, {num_frames / fps:.3g} s are needed "
            f"(num_frames={num_frames}, fps={fps:g})"
        )
    times = seconds[int(position * starts)] + np.arange(num_frames) / fps
    return np.searchsorted((seconds[1:] + seconds[:-1]) / 2, times, side="right")
