"""Small values to fill a store with, and a way to end a lease before its time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import update

from lsqctl.events import Checkpoint, Evaluation, Result
from lsqctl.run import Claim, Lease, NewRun, WorkerIdentity
from lsqctl.store import Store
from lsqctl.store.dialects import now
from lsqctl.store.tables import runs

RECIPE = {
    "data": {"name": "digits"},
    "model": {"name": "resnet8"},
    "quant": {"weight_bits": 4, "act_bits": 3},
}


@dataclass
class Clock:
    """Monotonic seconds that pass when told to."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


def new(name: str, *, seed: int = 0, **options: Any) -> NewRun:
    """A run whose hashes follow from its name and seed; ``parents`` are given by name."""
    parents = {f"role{i}": f"{p}:0" for i, p in enumerate(options.pop("parents", ()))}
    return NewRun(
        name=name,
        recipe=RECIPE,
        recipe_sha256=name,
        run_sha256=f"{name}:{seed}",
        seed=seed,
        provenance={"code_commit": "abc", "code_dirty": False},
        parents=parents,
        **options,
    )


def identity(worker_id: str) -> WorkerIdentity:
    return WorkerIdentity(worker_id, "name", "host", 1, 2.5, "boot", 1, "cpu")


def submit(store: Store, *wanted: NewRun) -> list[str]:
    return [each.run.id for each in store.queue.enqueue(wanted)]


def take(store: Store) -> Claim:
    claim = store.queue.claim("w1")
    assert claim is not None
    return claim


def lapse(store: Store, run_id: str, *, seconds: float = 1.0) -> None:
    """Let a run's lease have ended so many seconds ago by the database's clock."""
    change = update(runs).where(runs.c.id == run_id).values(lease_until=now(-seconds))
    store._database.write(lambda db: db.execute(change))


def no_back_off(store: Store) -> None:
    store._database.write(lambda db: db.execute(update(runs).values(not_before=None)))


def checkpoint(step: int, *, best: bool = False) -> Checkpoint:
    return Checkpoint(step, step // 10, Path(f"/runs/ckpt-{step}"), f"sha-{step}", 100, best)


def evaluation(**changes: Any) -> Evaluation:
    values: dict[str, Any] = {
        "variant": "raw",
        "selection": "last",
        "headline": True,
        "n_correct": 9,
        "n_correct_top5": 10,
        "n_total": 10,
        "hits": b"\xff\x40",
        "step": 100,
        "checkpoint": "/runs/ckpt-100",
    }
    return Evaluation(**values | changes)


def result(*evaluations: Evaluation) -> Result:
    return Result(
        evaluations=evaluations or (evaluation(),),
        dataset="digits",
        split="test",
        arch="resnet8",
        method="lsq",
        weight_bits=4,
        act_bits=3,
        first_last_bits="8/8",
        granularity="tensor",
        params=78_000,
        size_bytes=39_000,
        naive_bytes=312_000,
        macs=12_000_000,
        bops=10**13,
        epochs=5,
        train_seconds=1.5,
        peak_mem_bytes=2**33,
        device="cpu",
        torch="2",
        precision="fp32",
        deterministic="bitwise",
        data_digest="d",
        preprocessing="p",
        fp32_n_correct=10,
        fp32_n_total=10,
    )


def zombie(lease: Lease) -> Lease:
    """The same attempt with a fence that is no longer the run's."""
    return Lease(lease.run_id, lease.attempt, "0" * 32)
