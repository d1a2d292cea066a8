"""Attempts at a run, cut where a test wants it, and what two runs must have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lsqctl.errors import Preempted
from lsqctl.events import Checkpoint, Measurement, Metric, QuantizerStats, Result, TrainingEvent
from lsqctl.recipe import Recipe
from lsqctl.training import ExecutionContext, finetune
from lsqctl.training.checkpoint import CheckpointContent, resume_point, write_checkpoint


class StopAfter:
    """Says stop once, at the n-th time of asking (0: the first)."""

    def __init__(self, asked: int) -> None:
        self.left = asked

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == -1


def run(
    recipe: Recipe, job: ExecutionContext, stop_after: int | None = None
) -> list[TrainingEvent]:
    """Return the facts of an attempt, whether it was stopped or ended."""
    facts: list[TrainingEvent] = []
    job = job if stop_after is None else replace(job, stop=StopAfter(stop_after))
    try:
        for fact in finetune(recipe, job):
            facts.append(fact)
    except Preempted:
        assert isinstance(facts[-1], Checkpoint)
    return facts


def rows(facts: list[TrainingEvent]) -> list[Measurement]:
    measured = [one for one in facts if isinstance(one, Metric | QuantizerStats)]
    return [one for one in measured if one.name != "seconds"]


def tensors(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return every tensor and plain value of a nested state, by path."""
    if isinstance(value, dict):
        return {k: v for key in value for k, v in tensors(value[key], f"{prefix}/{key}").items()}
    if isinstance(value, list | tuple):
        return tensors(dict(enumerate(value)), prefix)
    return {prefix: value}


def assert_same_state(a: Path, b: Path) -> None:
    """Compare every tensor and value of the newest checkpoints, but for measured times."""
    first, second = resume_point(a)[0], resume_point(b)[0]
    assert first is not None
    assert second is not None
    for part in ("model", "training", "state"):
        one, other = tensors(dict(getattr(first, part))), tensors(dict(getattr(second, part)))
        assert one.keys() == other.keys()
        for key, value in one.items():
            if not key.endswith("seconds"):
                assert (
                    torch.equal(torch.as_tensor(value), torch.as_tensor(other[key]))
                    if (isinstance(value, torch.Tensor))
                    else value == other[key]
                ), key


def run_whole_and_cut(
    recipe: Recipe, job: Callable[[str], ExecutionContext], stop_after: int
) -> list[TrainingEvent]:
    """Return a whole run's events; one that was cut and resumed left the same, to the bit."""
    whole = run(recipe, job("whole"))
    first = run(recipe, job("cut"), stop_after=stop_after)
    second = run(recipe, job("cut"))
    assert rows(first) + rows(second) == rows(whole)
    assert plain(second[-1]) == plain(whole[-1])
    assert_same_state(job("whole").run_dir, job("cut").run_dir)
    return whole


def plain(result: TrainingEvent) -> Result:
    """Return a result without what may differ: time, memory, and the folder it was made in."""
    assert isinstance(result, Result)
    evaluations = tuple(
        replace(one, checkpoint=Path(one.checkpoint).name) for one in result.evaluations
    )
    return replace(result, train_seconds=0.0, peak_mem_bytes=0, evaluations=evaluations)


def rewritten(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Return a function that rewrites the newest checkpoint with a change to its parts."""

    def rewrite(folder: Path) -> None:
        snapshot = resume_point(folder)[0]
        assert snapshot is not None
        parts = {name: dict(getattr(snapshot, name)) for name in ("model", "training", "state")}
        change(parts)
        changed = CheckpointContent(
            snapshot.step, snapshot.epoch, best_step=snapshot.best_step, **parts
        )
        write_checkpoint(folder, changed, fence="test")

    return rewrite
