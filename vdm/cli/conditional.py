"""What `vdm extend`, `interpolate`, `upscale` and `inpaint` share: options, checks, blocks on the disk, the result."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, get_type_hints

import torch
import typer
from rich.console import Console
from torch import Tensor

from vdm.cli.progress import SamplingProgress
from vdm.data import VideoFile, VideoParts, write_contact_sheet
from vdm.data.atomic_files import check_target
from vdm.generation import Block, ConditionalSampler, LazyVideo, Method
from vdm.models import VideoUNet
from vdm.pretrained import MOVING_DIGITS
from vdm.training import Config, ConfigError, apply_overrides, config_to_dict, load_model
from vdm.training.build import build_sampler, build_schedule
from vdm.training.config import SamplerName
from vdm.training.sampling import build_denoiser, build_threshold

_Parameters = ParamSpec("_Parameters")
_SHOWN_PIXELS = 64
_SHEET_COLUMNS = 8
_SHEET_ROWS = 8
# Frames of the input in memory at a time.
_PORTION = 64
_RATE_TOLERANCE = 0.01
# What joins blocks best in docs/moving_digits.md, and close to the 9 of Ho et al. 2022 for five known frames.
DEFAULT_WEIGHT = 10.0


@dataclass(frozen=True)
class Options:
    """The options of all four commands, as typer reads them."""

    video: Annotated[Path, typer.Argument(help="The video: .mp4, .gif, or anything else that FFmpeg reads.")]
    out: Annotated[
        Path, typer.Option("--out", help="The file to write: .mp4, .gif, .webm, .mkv, .mov or .avi.")
    ]
    model: Annotated[
        Path,
        typer.Option(
            "--model",
            help="An exported .safetensors file, or the folder of a run or of a checkpoint (EMA weights).",
            show_default="moving digits, ships with the package",
        ),
    ] = MOVING_DIGITS
    label: Annotated[int | None, typer.Option("--label", min=0, help="Class of the video; else none.")] = None
    method: Annotated[
        Method, typer.Option("--method", help="Reconstruction guidance, or replacement alone.")
    ] = "reconstruction"
    weight: Annotated[
        float | None,
        typer.Option(
            "--weight",
            min=0.0,
            help="w_r of reconstruction guidance.",
            show_default=f"{DEFAULT_WEIGHT:g}; upscale: the pixels drawn for a given one",
        ),
    ] = None
    sampler: Annotated[SamplerName | None, typer.Option("--sampler", help="The sampler.")] = None
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Sampler steps per block.")] = None
    guidance_weight: Annotated[
        float | None,
        typer.Option("--guidance-weight", min=0.0, help="w of classifier-free guidance; 0 = none."),
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed gives the same video.")] = None
    resize: Annotated[
        bool,
        typer.Option(
            "--resize", help="Scale, crop, convert and resample a video that does not fit the model."
        ),
    ] = False
    scale: Annotated[int, typer.Option("--scale", min=1, help="Pixels of the file per pixel, in a row.")] = 1
    sheet: Annotated[bool, typer.Option("--sheet", help="Write a contact sheet too, a .png beside it.")] = (
        False
    )
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any other value, as sampling.gamma=0.3."),
    ] = None
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")] = "auto"


def conditional_command(
    command: Callable[Concatenate[Options, _Parameters], None],
) -> Callable[..., None]:
    """The command with the fields of `Options`, its first argument, as parameters of its own."""
    hints = get_type_hints(Options, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(Options)
    ]
    own_hints = get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(annotation=own_hints[name])
        for name, parameter in list(inspect.signature(command).parameters.items())[1:]
    ]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        options = Options(**{parameter.name: values.pop(parameter.name) for parameter in shared})
        command(options, **values)  # type: ignore[call-arg]

    parameters = [*shared, *own]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


@dataclass(frozen=True)
class Job:
    """A model and the video it is given, checked to fit each other.

    Attributes:
        where: the command, for error messages.
        options: of the command.
        model: the network, on the device.
        config: its configuration, with all options applied.
        source: the video.
    """

    where: str
    options: Options
    model: VideoUNet
    config: Config
    source: VideoFile

    @classmethod
    def prepare(
        cls, where: str, options: Options, *, size_divisor: int | None = 1, rate_divisor: float = 1.0
    ) -> Job:
        """Load the model and open the video.

        Args:
            where: the command.
            options: of the command.
            size_divisor: the video has the model's size over this; None = over any whole number.
            rate_divisor: the video has the model's frame rate, where it has one, over this.

        Raises:
            ValueError: an option is out of its range, or the video does not fit the model.
        """
        name = options.device
        device = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
        if options.method == "replacement" and options.weight is not None:
            raise ConfigError(f"{where}: --weight needs --method reconstruction, got replacement")
        model, config = load_model(options.model, device=device)
        given = {
            "sampling.sampler": options.sampler,
            "sampling.steps": options.steps,
            "sampling.guidance_weight": options.guidance_weight,
            "sampling.seed": options.seed,
            "sampling.labels": "none" if options.label is None else f"[{options.label}]",
        }
        changes = [f"{key}={value}" for key, value in given.items() if value is not None]
        config = apply_overrides(config, changes + (options.overrides or []))
        source = _open_video(where, options, config, size_divisor, rate_divisor)
        return cls(where, options, model, config, source)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def seed(self) -> int:
        """Of the video that is drawn."""
        return self.config.sampling.seed

    def block_frames(self, num_frames: int) -> int:
        """Frames that are drawn at once: as many as the model was trained on, if the video has so many."""
        return min(self.config.data.frames, num_frames)

    def read(self, start: int, stop: int) -> Tensor:
        """Frames of the video as the model takes them, (1, C, F, H, W)."""
        return self.source.read(start, stop)[None].to(self.device)

    def lazy(self) -> LazyVideo:
        """The video, read where it is needed."""
        channels, (height, width) = self.config.model.prediction_channels, self.source.size
        shape = (1, channels, self.source.num_frames, height, width)
        return LazyVideo(shape, self.read, device=self.device)

    def run(
        self,
        draw: Callable[[ConditionalSampler, VideoParts], Iterator[Tensor]],
        blocks: Sequence[Block],
        *,
        fps: float,
        starts_with_source: bool = False,
        default_weight: float = DEFAULT_WEIGHT,
        **arguments: Any,
    ) -> None:
        """Draw the blocks that are not on the disk yet, then write the file.

        Args:
            draw: from how to draw, and the blocks that are there, to the others.
            blocks: all of them.
            fps: frames per second of the result.
            starts_with_source: the result is the video followed by the blocks.
            default_weight: w_r of reconstruction guidance where --weight is not given.
            arguments: what the blocks depend on besides the common options, as JSON values.
        """
        options, config = self.options, self.config
        before = self.source.num_frames if starts_with_source else 0
        sheet = check_target(self.where, options.out.with_suffix(".png")) if options.sheet else None
        weight = options.weight
        if weight is None and options.method == "reconstruction":
            weight = default_weight
        arguments = {**self._arguments(), "weight": weight, **arguments}
        parts = VideoParts(options.out, arguments, fps=fps, scale=options.scale)
        labels = None if config.sampling.labels is None else config.sampling.labels[:1]
        console = Console(stderr=True)
        if len(parts):
            console.print(f"going on after block {len(parts)} of {len(blocks)}", highlight=False)
        with SamplingProgress(console, blocks=len(blocks), done=len(parts)) as progress:
            how = ConditionalSampler(
                build_denoiser(self.model, config, count=1, fps=fps, labels=labels),
                build_sampler(config),
                method=options.method,
                weight=weight,
                threshold=build_threshold(config.sampling),
                variance_preserving=build_schedule(config.diffusion).variance_preserving,
                callback=progress,
            )
            try:
                for frames in draw(how, parts) if len(parts) < len(blocks) else ():
                    parts.append(frames[0])
                    progress.finish_block()
                if sheet is not None:
                    self._write_sheet(sheet, parts, before)
                parts.finish(self.source.read(start, stop) for start, stop in portions(before))
            except KeyboardInterrupt:
                kept = f"{len(parts)} of {len(blocks)} blocks are kept in {parts.folder}"
                console.print(
                    f"interrupted: {kept}; the same command goes on", soft_wrap=True, highlight=False
                )
                raise typer.Exit(130) from None
        typer.echo(options.out)
        if sheet is not None:
            typer.echo(sheet)

    def _arguments(self) -> dict[str, Any]:
        """What every block depends on: this command, its inputs by content, and the configuration."""
        sections = config_to_dict(self.config)
        return {
            "command": self.where,
            "video": file_hash(self.options.video),
            "model": _weights_hash(self.model),
            "method": self.options.method,
            "resize": self.options.resize,
            "device": self.device.type,
            **{
                f"{section}.{key}": value
                for section in ("model", "diffusion", "data", "sampling")
                for key, value in sections[section].items()
            },
        }

    def _write_sheet(self, path: Path, parts: VideoParts, before: int) -> None:
        """Frames of the result, evenly spaced, in rows with the number of their first."""
        total = before + parts.num_frames
        columns = min(_SHEET_COLUMNS, total)
        rows = min(_SHEET_ROWS, -(-total // columns))
        picked = torch.linspace(0, total - 1, rows * columns).round().int().tolist()
        frames = [
            self.source.read(i, i + 1) if i < before else parts.frames(i - before, i - before + 1)
            for i in picked
        ]
        videos = torch.stack([torch.cat(frames[i : i + columns], 1) for i in range(0, len(frames), columns)])
        scale = max(1, _SHOWN_PIXELS // max(videos.shape[-2:]))
        write_contact_sheet(path, videos, labels=picked[::columns], scale=scale)


def _open_video(
    where: str, options: Options, config: Config, size_divisor: int | None, rate_divisor: float
) -> VideoFile:
    """The video as the model takes it.

    Raises:
        ValueError: it does not fit, and --resize is not given.
    """
    source, channels = VideoFile(options.video), config.model.prediction_channels
    rate = None if config.data.fps is None else config.data.fps / rate_divisor
    height, width = config.data.shape
    if size_divisor is None:
        if options.resize:
            raise ConfigError(f"{where}: --resize needs --factor, got none")
        low_height, low_width = source.size
        fits = height % low_height == 0 and width % low_width == 0 and source.size != (height, width)
        size, needed_size = source.size, f"{height}x{width} pixels over a whole number from 2 on"
    else:
        if height % size_divisor or width % size_divisor:
            raise ConfigError(
                f"{where}: --factor must divide the model's {height}x{width}, got {size_divisor}"
            )
        size = (height // size_divisor, width // size_divisor)
        fits, needed_size = source.size == size, f"{size[0]}x{size[1]} pixels"
    if options.resize:
        return VideoFile(options.video, size=size, channels=channels, fps=rate)
    needed, got = [], []
    if not fits:
        needed.append(needed_size)
        got.append(f"{source.size[0]}x{source.size[1]} pixels")
    if rate is not None and abs(source.fps / rate - 1) > _RATE_TOLERANCE:
        needed.append(f"{rate:g} frames/s")
        got.append(f"{source.fps:g} frames/s")
    if not needed and channels == 1 and not _is_grey(source):
        needed.append("grey frames")
        got.append("colour")
    if needed:
        raise ConfigError(
            f"{where}: the model needs a video of {', '.join(needed)}, got {', '.join(got)} ({options.video}); "
            "--resize makes it fit"
        )
    return VideoFile(options.video, channels=channels)


def _is_grey(source: VideoFile) -> bool:
    return all(source.is_grey(start, stop) for start, stop in portions(source.num_frames))


def portions(num_frames: int) -> list[tuple[int, int]]:
    """(start, stop) of parts of a video that are in memory one at a time."""
    return [(start, min(start + _PORTION, num_frames)) for start in range(0, num_frames, _PORTION)]


def completed_frames(job: Job, parts: VideoParts, blocks: Sequence[Block]) -> Tensor | None:
    """The frames that the next block sees of those before it, (1, C, F, H, W); None where it sees none."""
    block = blocks[len(parts)]
    if block.start == block.first:
        return None
    return parts.frames(block.start, block.first)[None].to(job.device)


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _weights_hash(model: VideoUNet) -> str:
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
