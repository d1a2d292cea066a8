"""One run in memory: model, optimizer and cursor, and how they become a checkpoint and back."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lsqctl.errors import DataError, Diverged, Preempted
from lsqctl.facts import Checkpoint, Progress
from lsqctl.failpoint import failpoint
from lsqctl.quant import Oscillations, PositiveSteps
from lsqctl.recipe import Recipe, fingerprint
from lsqctl.training import compiled, runtime
from lsqctl.training.average import WeightAverage
from lsqctl.training.checkpoint import Snapshot, write_checkpoint
from lsqctl.training.cursor import Cursor
from lsqctl.training.feed import Feed
from lsqctl.training.folders import remove
from lsqctl.training.runtime import Job
from lsqctl.training.step import Stepper


@dataclass(slots=True)
class Session:
    """All that changes while a run trains.

    ``average`` follows the weights where the recipe wants it, and ``statistics`` are those of batch
    norm that were estimated again at the end. ``pending`` holds what may still be on the device,
    (step, loss, right, images), and ``clamped`` how many of this attempt's clamps the cursor has
    counted already, by quantizer. ``network`` and ``tutor`` are what a training step calls for the
    model and the teacher.
    """

    recipe: Recipe
    job: Job
    feed: Feed
    model: nn.Module
    teacher: nn.Module | None
    optimizer: torch.optim.Optimizer
    positive: PositiveSteps | None
    cursor: Cursor
    network: compiled.Network
    tutor: compiled.Network | None
    stepper: Stepper
    average: WeightAverage | None = None
    statistics: dict[str, Tensor] | None = None
    pending: list[tuple[int, Tensor, Tensor, int]] = field(default_factory=list)
    clamped: dict[str, int] = field(default_factory=dict)
    oscillations: Oscillations | None = None
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> bool:
        """Whether every epoch is trained and evaluated."""
        return self.trained and not self.cursor.evaluation_pending

    @property
    def trained(self) -> bool:
        """Whether every epoch is trained."""
        return self.cursor.epoch >= self.recipe.train.epochs

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        epochs = self.recipe.train.epochs
        steps = epochs * self.feed.steps_per_epoch
        return Progress(self.cursor.step, steps, self.cursor.epoch, epochs)

    def check_stop(self) -> None:
        """Raise Preempted when the attempt is asked to stop."""
        check_stop(self.job)

    def collect(self) -> None:
        """Take the pending losses into the cursor; raises Diverged when one is not finite."""
        for step, loss, right, images in self.pending:
            value = loss.item()
            if not math.isfinite(value):
                raise self._diverged(f"the loss is {value}", step)
            self.cursor.window.append((value, int(right), images))
        self.pending.clear()

    def check_scale(self) -> None:
        """Raise Diverged when fp16 overflows however small the loss is made."""
        if self.stepper.too_small:
            raise self._diverged("gradients overflow fp16 at any loss scale", self.cursor.step)

    def count(self) -> None:
        """Bring up to date how often steps were clamped and gradients clipped in this epoch."""
        self.cursor.clipped += self.stepper.take_clipped()
        if self.positive is not None:
            total, counts = self.positive.clamped, Counter(self.cursor.clamped)
            counts.update(total)
            counts.subtract(self.clamped)
            self.cursor.clamped = {name: count for name, count in counts.items() if count}
            self.clamped = total

    def save(self) -> Iterator[Checkpoint]:
        """Write and yield a checkpoint of this moment; once it is taken, remove what it replaces.

        Raises Diverged rather than save NaN or infinity, and OSError when it cannot be written or
        the run's folder has vanished.
        """
        failpoint("checkpoint.begin")
        self.collect()
        self.count()
        if not self.job.run_dir.is_dir():
            raise OSError(f"the run's folder {self.job.run_dir} has vanished, checkpoints and all")
        if (name := first_not_finite(self.model)) is not None:
            raise self._diverged(f"{name} holds NaN or infinity", self.cursor.step)
        cursor = self.cursor
        snapshot = Snapshot(
            cursor.step,
            cursor.epoch,
            model=self.model.state_dict(),
            training=self._training_state(),
            state={
                "cursor": cursor.to_state(),
                "random": runtime.random_values(),
                "network": self.feed.network,
                "data": self.feed.dataset.digest,
                "variant": self.recipe.train.headline_variant,
            },
            best_step=cursor.best.step if cursor.best else None,
        )
        checkpoint = write_checkpoint(
            self.job.run_dir, snapshot, fence=self.job.fence, owning=self.job.owning
        )
        self.saved_at = time.monotonic()
        yield checkpoint
        failpoint("checkpoint.recorded")
        if checkpoint.replaces:
            self.job.owning(lambda: remove(checkpoint.replaces))

    def _training_state(self) -> dict[str, Any]:
        """Return the tensors beside the model; of what is off, nothing."""
        optional = {
            "scaler": self.stepper.state_dict(),
            "ema": self.average.model.state_dict() if self.average else None,
            "bn": self.statistics,
        }
        return {
            "optimizer": self.optimizer.state_dict(),
            "random": runtime.random_tensors(),
            "oscillations": self.oscillations.state_dict() if self.oscillations else {},
            **{name: state for name, state in optional.items() if state},
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Take up a checkpoint's tensors and random states, the cursor being taken already."""
        self.model.load_state_dict(snapshot.model)
        self.optimizer.load_state_dict(dict(snapshot.training["optimizer"]))
        self.stepper.load_state_dict(snapshot.training.get("scaler", {}))
        if self.average is not None:
            self.average.model.load_state_dict(snapshot.training["ema"])
        self.statistics = snapshot.training.get("bn")
        if self.oscillations is not None:
            self.oscillations.load_state_dict(snapshot.training.get("oscillations", {}))
        runtime.restore_random(snapshot.training["random"], snapshot.state["random"])

    def _diverged(self, what: str, step: int) -> Diverged:
        layer = first_not_finite(self.model)
        where = f"first in layer {layer}" if layer else "all weights are still finite"
        return Diverged(
            f"{what} in epoch {self.cursor.epoch + 1}, step {step} ({where}); the last checkpoint "
            "is finite: lower train.lr, or set train.warmup_epochs"
        )


def check_stop(job: Job) -> None:
    """Raise Preempted when the attempt is asked to stop."""
    if job.stop():
        raise Preempted("asked to stop; the state is saved and the run goes on from it")


def first_not_finite(model: nn.Module) -> str | None:
    """Return the name of the first parameter, step size or buffer with NaN or infinity."""
    tensors = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    if not tensors:
        return None
    good = torch.stack([torch.isfinite(one).all() for one in tensors.values()]).tolist()
    return next((name for name, fine in zip(tensors, good, strict=True) if not fine), None)


def recipe_hash(recipe: Recipe) -> str:
    """Return what a checkpoint is compared by: the recipe without the bytes of its inputs."""
    return fingerprint(recipe, dict.fromkeys(recipe.references(), "-"), with_seed=True)


def taken_up(snapshot: Snapshot, recipe: Recipe, job: Job) -> tuple[Cursor, list[str]]:
    """Return the cursor of a checkpoint, and what is different from the first attempt.

    Raises DataError when the checkpoint is of another recipe.
    """
    cursor = Cursor.from_state(snapshot.state["cursor"])
    if cursor.recipe != recipe_hash(recipe):
        raise DataError(f"the checkpoints in {job.run_dir} are of another recipe or seed")
    for name in ("compile", "channels_last"):  # by checkpoints from before it was asked
        cursor.circumstances.setdefault(name, False)
    on, complaints = compiled.resumed(cursor, job)
    kept = {"channels_last": cursor.circumstances["channels_last"]}
    now = runtime.circumstances(job) | kept | {"compile": on}
    changed = [name for name in now if now[name] != cursor.circumstances.get(name)]
    if not changed:
        return cursor, complaints
    cursor.deterministic = "statistical"
    was = ", ".join(f"{name} {cursor.circumstances.get(name)} → {now[name]}" for name in changed)
    cursor.circumstances = dict(now)  # the next attempt is told what is new to it
    told = f"resumed elsewhere ({was}): the numbers are no longer exact to the bit"
    return cursor, [*complaints, told]
