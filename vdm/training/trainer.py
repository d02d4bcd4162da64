"""The training loop: `Trainer` holds the state of a run and makes its steps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from vdm.data import Batch, DrawDataset
from vdm.training.build import build_dataset, build_model, build_schedule, check_data
from vdm.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    restore_optimizer,
    restore_torch_rng,
    save_checkpoint,
)
from vdm.training.config import Config, TrainingConfig
from vdm.training.ema import EMA
from vdm.training.interrupts import StopSignals
from vdm.training.loader import batches
from vdm.training.logs import RunLog
from vdm.training.objective import Objective, loss_by_logsnr
from vdm.training.parsing import config_to_dict
from vdm.training.plots import draw_loss_curve
from vdm.training.progress import TrainingProgress
from vdm.training.randomness import INITIAL_STREAM, mix, seed_torch
from vdm.training.sampling import write_samples

_PLOT_SECONDS = 60.0


class TrainingError(ValueError):
    """Training cannot go on; the message says at which step and what can be used."""


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Learning rate of step n (from 0): linear warm-up, then constant, or half a cosine to zero at `steps`."""
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
        dataset: DrawDataset | None = None,
    ) -> None:
        """Build everything from the configuration; nothing is written yet.

        Args:
            config: the run.
            folder: where checkpoints, log, curve and samples go.
            device: where the network runs.
            dataset: the data, where it is not to be built from the configuration.

        Raises:
            ValueError: the configuration does not fit together or the data is not there.
        """
        self.config = config
        self.folder = folder
        self.device = torch.device(device)
        training = config.training
        if dataset is None:
            dataset = build_dataset(config.data, channels=config.model.in_channels, seed=training.seed)
        self.dataset = dataset
        check_data(config, dataset)
        torch.manual_seed(mix(training.seed, INITIAL_STREAM) >> 1)
        self.model = build_model(config).to(self.device)
        self.ema = EMA(self.model, decay=training.ema_decay)
        self.objective = Objective(config, build_schedule(config.diffusion))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=training.lr,
            betas=(training.beta1, training.beta2),
            eps=training.eps,
            weight_decay=training.weight_decay,
            fused=True,
        )
        self.step = 0
        self._network: nn.Module = torch.compile(self.model) if training.compile else self.model
        # Sums and counts since the last log record; part of a checkpoint, so that a resumed log is the same.
        self._window: dict[str, list[float]] = {}
        self._saved_step = -1

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of this run."""
        self.model.load_state_dict(checkpoint.model)
        self.ema.load_state_dict(checkpoint.ema, num_updates=checkpoint.state["ema_updates"])
        restore_optimizer(self.optimizer, self.model, checkpoint.optimizer)
        restore_torch_rng(checkpoint.state)
        self._window = {name: list(pair) for name, pair in checkpoint.state["window"].items()}
        self.step = self._saved_step = checkpoint.step

    def save(self) -> Path:
        """Write a checkpoint of the present step.

        Raises:
            CheckpointError: it could not be written; earlier ones are untouched.
        """
        training = self.config.training
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
        limit = math.inf if training.clip_norm is None else training.clip_norm
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit, foreach=True)
        values = {"loss": loss.mean().item(), "grad_norm": norm.item()}
        self._require_finite(values)
        values["lr"] = learning_rate(training, step)
        for group in self.optimizer.param_groups:
            group["lr"] = values["lr"]
        self.optimizer.step()
        self.ema.update(self.model)
        self.step += 1
        for name, group_losses in loss_by_logsnr(loss, logsnr).items():
            values[name] = sum(group_losses) / len(group_losses)
        return values

    def train(self, *, console: Console) -> int:
        """Make all remaining steps, writing everything a run writes.

        Returns:
            0, or 128 + signal number where SIGINT or SIGTERM ended it; everything is saved in both cases.

        Raises:
            TrainingError: loss or gradient is not finite.
            CheckpointError: the disk refuses.
        """
        training = self.config.training
        first = self.step
        with (
            StopSignals() as stop,
            RunLog(self.folder, step=first) as log,
            TrainingProgress(first_step=first, steps=training.steps, console=console) as progress,
        ):
            data = batches(
                self.dataset,
                batch_size=training.batch_size,
                accumulation_steps=training.accumulation_steps,
                first_step=first,
                last_step=training.steps,
                workers=training.workers,
            )
            self._loop(data, stop, log, progress)
            draw_loss_curve(log.path, self.folder / "loss.png")
        return stop.exit_status

    def _loop(
        self, data: Iterator[Batch], stop: StopSignals, log: RunLog, progress: TrainingProgress
    ) -> None:
        training = self.config.training
        clock = _Clock()
        plotted = time.monotonic()
        while self.step < training.steps and stop.received is None:
            micro_batches = [next(data) for _ in range(training.accumulation_steps)]
            values = self.train_step(micro_batches)
            speed = clock.rate(training.batch_size)
            progress.update(self.step, {**values, "clips_per_second": speed})
            self._record(values, speed, log)
            last = self.step == training.steps
            if stop.received is not None or last or self.step % training.checkpoint_every == 0:
                log.sync()
                self.save()
            due = training.sample_every and self.step % training.sample_every == 0
            if (due or last) and stop.received is None:
                self._sample(progress)
            if time.monotonic() - plotted > _PLOT_SECONDS:
                draw_loss_curve(log.path, self.folder / "loss.png")
                plotted = time.monotonic()
            clock.restart()

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

    def _sample(self, progress: TrainingProgress) -> None:
        progress.note(f"step {self.step}: sampling")
        self.model.eval()
        with self.ema.swapped(self.model):
            path = write_samples(self.model, self.config, self.folder / "samples", step=self.step)
        progress.note(f"step {self.step}: wrote {path}")

    def _require_finite(self, values: dict[str, float]) -> None:
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if not wrong:
            return
        kept = list_checkpoints(self.checkpoints)
        newest = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        raise TrainingError(
            f"train: loss and gradient must be finite, got {wrong[0]}={values[wrong[0]]} at step {self.step}; "
            f"nothing of this step was kept, {newest}. Try a lower training.lr or training.precision=fp32"
        )


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
