"""The training loop: `Trainer` holds the state of a run and makes its steps."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from torch import nn

from vdm.data import Batch
from vdm.samplers import SamplerStep
from vdm.training.build import TrainingData, build_data, build_model, build_schedule, check_data
from vdm.training.checkpoint import (
    Checkpoint,
    checkpoint_name,
    list_checkpoints,
    optimizer_tensors,
    restore_optimizer,
    restore_torch_rng,
    save_checkpoint,
)
from vdm.training.config import Config, TrainingConfig
from vdm.training.ema import EMA
from vdm.training.interrupts import StopSignals
from vdm.training.loader import batches
from vdm.training.logs import RunLog
from vdm.training.objective import Objective, TextEncoder, loss_by_logsnr
from vdm.training.parsing import config_to_dict
from vdm.training.plots import draw_loss_curve
from vdm.training.progress import TrainingProgress
from vdm.training.randomness import INITIAL_STREAM, mix, seed_torch
from vdm.training.sampling import sample_paths, write_samples

_PLOT_SECONDS = 60.0


class TrainingError(ValueError):
    """Training cannot go on; the message says at which step and what can be used."""


class _Stopped(Exception):
    """Leaves a sampler in the middle when a signal asks to stop."""


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Learning rate of step n (from 0): linear warm-up, then constant or half a cosine to zero."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.lr_decay == "constant":
        return config.lr * warmup
    done = max(0, step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.lr * warmup * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


class Trainer:
    """A run in a folder: network, EMA, optimizer and step, and the loop over them."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        data: TrainingData | None = None,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        """Build everything from the configuration; nothing is written yet.

        Args:
            config: the run.
            folder: where checkpoints, log, curve and samples go.
            device: where the network runs.
            data: the draws, where they are not to be built from the configuration.
            text_encoder: texts to embeddings, for a model that is conditioned on text; frozen and deterministic.

        Raises:
            ValueError: the configuration does not fit together or the data is not there.
        """
        self.config = config
        self.folder = folder
        self.device = _checked_device(device)
        training = config.training
        if data is None:
            data = build_data(config.data, channels=config.model.in_channels, seed=training.seed)
        check_data(config, data.dataset, has_text_encoder=text_encoder is not None)
        self.data = data
        torch.manual_seed(mix(training.seed, INITIAL_STREAM) >> 1)
        self.model = build_model(config).to(self.device)
        self.ema = EMA(self.model, decay=training.ema_decay)
        self.objective = Objective(config, build_schedule(config.diffusion), text_encoder)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=training.lr,
            betas=(training.beta1, training.beta2),
            eps=training.eps,
            weight_decay=training.weight_decay,
            fused=True,
        )
        self.step = 0
        # The same module, compiled or not; state and gradients are those of `model`.
        self._network = cast(nn.Module, torch.compile(self.model)) if training.compile else self.model
        # Sums and counts since the last log record; part of a checkpoint, so that a resumed log is the same.
        self._window: dict[str, list[float]] = {}
        self._saved_step = -1

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of this run.

        Raises:
            TrainingError: the files that the data comes from are not those of the run.
        """
        found, expected = self.data.fingerprint, checkpoint.state.get("data_fingerprint")
        if found != expected:
            raise TrainingError(
                f"train: the data must be the files that {checkpoint.path} was trained on, got others (names or "
                "sizes differ); restore them, or choose another --out"
            )
        self.model.load_state_dict(checkpoint.model)
        self.ema.load_state_dict(checkpoint.ema, num_updates=checkpoint.state["ema_updates"])
        restore_optimizer(self.optimizer, self.model, checkpoint.optimizer)
        restore_torch_rng(checkpoint.state)
        self._window = {name: list(pair) for name, pair in checkpoint.state["window"].items()}
        self.step = self._saved_step = checkpoint.step

    def save(self) -> Path:
        """Write a checkpoint of the present step; nothing is done where it is there already.

        Raises:
            CheckpointError: it could not be written; earlier ones are untouched.
            TrainingError: a weight or a moment is not finite.
        """
        training = self.config.training
        if self._saved_step == self.step:
            return self.checkpoints / checkpoint_name(self.step)
        self._require_finite_state()
        path = save_checkpoint(
            self.checkpoints,
            step=self.step,
            config=config_to_dict(self.config),
            model=self.model,
            ema=self.ema.state_dict(),
            optimizer=self.optimizer,
            state={
                "seed": training.seed,
                "data_position": self.step * training.batch_size,
                "data_fingerprint": self.data.fingerprint,
                "threads": torch.get_num_threads(),
                "ema_updates": self.ema.num_updates,
                "window": self._window,
            },
            keep=training.keep_checkpoints,
        )
        self._saved_step = self.step
        return path

    def train_step(self, micro_batches: Sequence[Batch]) -> dict[str, float]:
        """One optimizer step over the micro-batches of a global batch.

        Returns:
            loss (mean over rows), loss per range of λ, lr and grad_norm (before clipping).

        Raises:
            TrainingError: the loss or the gradient is not finite; the weights are still those of before.
        """
        training, step = self.config.training, self.step
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses, levels = [], []
        rows = training.batch_size // len(micro_batches)
        for micro, batch in enumerate(micro_batches):
            seed_torch(training.seed, step, micro)
            numbers = range(micro * rows, (micro + 1) * rows)
            loss, logsnr = self.objective(
                self._network, batch.to(self.device, non_blocking=True), step=step, rows=numbers
            )
            (loss.mean() / len(micro_batches)).backward()
            losses.append(loss.detach())
            levels.append(logsnr)
        loss, logsnr = torch.cat(losses), torch.cat(levels)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        values = {"loss": loss.mean().item(), "grad_norm": norm.item()}
        self._require_finite(values)
        if training.clip_norm is not None and values["grad_norm"] > training.clip_norm:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), training.clip_norm, norm, foreach=True)
        values["lr"] = learning_rate(training, step)
        for group in self.optimizer.param_groups:
            group["lr"] = values["lr"]
        self.optimizer.step()
        self.ema.update(self.model)
        self.step += 1
        for name, group_losses in loss_by_logsnr(loss, logsnr).items():
            values[name] = sum(group_losses) / len(group_losses)
        return values

    def train(self, *, console: Console, stop: StopSignals) -> int:
        """Make all remaining steps, writing everything a run writes.

        Args:
            console: where progress is shown.
            stop: asked after every step whether to save and stop.

        Returns:
            0, or 128 + signal number where SIGINT or SIGTERM ended it; everything is saved in both cases.

        Raises:
            TrainingError: loss or gradient is not finite.
            CheckpointError: the disk refuses.
        """
        training = self.config.training
        self.folder.mkdir(parents=True, exist_ok=True)
        progress = TrainingProgress(first_step=self.step, steps=training.steps, console=console)
        with progress, RunLog(self.folder, step=self.step, warn=progress.note) as log:
            data = batches(
                self.data.dataset,
                batch_size=training.batch_size,
                accumulation_steps=training.accumulation_steps,
                first_step=self.step,
                last_step=training.steps,
                workers=training.workers,
            )
            with closing(data):
                self._loop(data, stop, log, progress)
            self._draw_curve(progress)
        return stop.exit_status

    def _loop(
        self, data: Generator[Batch, None, None], stop: StopSignals, log: RunLog, progress: TrainingProgress
    ) -> None:
        training = self.config.training
        if self.samples_missing():
            self._sample(progress, stop)
        clock = _Clock()
        plotted = time.monotonic()
        while self.step < training.steps and stop.received is None:
            values = self.train_step([next(data) for _ in range(training.accumulation_steps)])
            speed = clock.rate(training.batch_size)
            progress.update(self.step, {**values, "clips_per_second": speed})
            self._record(values, speed, log)
            last = self.step == training.steps
            if stop.received is not None or last or self.step % training.checkpoint_every == 0:
                log.sync()
                self.save()
            if self._samples_due():
                self._sample(progress, stop)
            if time.monotonic() - plotted > _PLOT_SECONDS:
                self._draw_curve(progress)
                plotted = time.monotonic()
            clock.restart()
        log.sync()
        self.save()

    def _record(self, values: dict[str, float], speed: float, log: RunLog) -> None:
        """Add a step to the window, and write the window's means where a record is due."""
        for name, value in values.items():
            if name != "lr":
                total = self._window.setdefault(name, [0.0, 0])
                total[0] += value
                total[1] += 1
        if self.step % self.config.training.log_every == 0 or self.step == self.config.training.steps:
            means = {name: total / count for name, (total, count) in sorted(self._window.items())}
            log.write(self.step, {**means, "lr": values["lr"], "clips_per_second": speed})
            self._window = {}

    def samples_missing(self) -> bool:
        """Whether the run ended between the checkpoint of this step and its samples."""
        return self._samples_due() and not sample_paths(self.folder / "samples", self.step)[-1].is_file()

    def _samples_due(self) -> bool:
        training = self.config.training
        regular = training.sample_every > 0 and self.step % training.sample_every == 0
        return self.step > 0 and (regular or self.step == training.steps)

    def _sample(self, progress: TrainingProgress, stop: StopSignals) -> None:
        def check(step: SamplerStep) -> None:
            if stop.received is not None:
                raise _Stopped

        if stop.received is not None:
            return
        progress.note(f"step {self.step}: drawing samples")
        self.model.eval()
        bf16 = self.config.training.precision == "bf16"
        try:
            with (
                self.ema.swapped(self.model),
                torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16),
            ):
                path = write_samples(
                    self.model, self.config, self.folder / "samples", step=self.step, callback=check
                )
            progress.note(f"step {self.step}: wrote {path}")
        except _Stopped:
            pass
        except OSError as error:
            progress.note(f"warning: step {self.step}: could not write samples: {error.strerror}")

    def _draw_curve(self, progress: TrainingProgress) -> None:
        try:
            draw_loss_curve(self.folder / "log.jsonl", self.folder / "loss.png")
        except OSError as error:
            progress.note(f"warning: could not write loss.png: {error.strerror}")

    def _require_finite_state(self) -> None:
        """No checkpoint of a state that cannot be trained further."""
        tensors = list(self.ema.state_dict().values())
        tensors += self.model.state_dict().values()
        tensors += optimizer_tensors(self.optimizer, self.model).values()
        floating = [t for t in tensors if t.is_floating_point()]
        if not all(math.isfinite(norm.item()) for norm in torch._foreach_norm(floating, math.inf)):
            self._require_finite({"weights": math.nan})

    def _require_finite(self, values: dict[str, float]) -> None:
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if not wrong:
            return
        kept = list_checkpoints(self.checkpoints)
        newest = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        raise TrainingError(
            f"train: loss, gradient and weights must be finite, got {wrong[0]}={values[wrong[0]]} at step "
            f"{self.step}; nothing was saved since, {newest}. Try a lower training.lr or training.precision=fp32"
        )


def _checked_device(device: torch.device | str) -> torch.device:
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"train: device must be one that torch can use here, got {device!s}: {reason}"
        ) from error


class _Clock:
    """Clips per second over the last steps, without what happens between `rate` and `restart`."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._average: float | None = None

    def rate(self, clips: int) -> float:
        seconds = time.monotonic() - self._started
        self._average = seconds if self._average is None else 0.9 * self._average + 0.1 * seconds
        return clips / self._average

    def restart(self) -> None:
        self._started = time.monotonic()
