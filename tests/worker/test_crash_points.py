"""A crash between any two facts leaves rows that, after the resume, are those of the whole run."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from lsqctl.events import Checkpoint, Result
from lsqctl.run import EndReason, RunState
from lsqctl.store import open_store
from lsqctl.training import ExecutionContext, finetune
from lsqctl.worker.recorder import Recorder
from tests.conftest import fewer
from tests.store.samples import identity, new, no_back_off, submit, take
from tests.training.conftest import small
from tests.training.small_world import declared


class Crash(Exception):
    """Stands for SIGKILL: nothing of the attempt runs after it, no buffer is written."""


@pytest.fixture
def store(tmp_path):
    with open_store(f"sqlite:///{tmp_path}/home/lsqctl.db") as opened:
        opened.workers.register(identity("w1"))
        yield opened


def attempt(store, claim, job, crash):
    """Record an attempt as a child does, until ``crash(fact)`` is true before a fact is kept."""
    known = frozenset(one.sha256 for one in store.checkpoints.list(claim.run.id))
    draw = random.Random(claim.lease.attempt)
    seconds = iter(range(10**6))
    clock = lambda: next(seconds) if draw.random() < 0.3 else 0.0  # noqa: E731 (when it flushes)
    recorder = Recorder(store, claim.lease, run_dir=job.run_dir, clock=clock)
    job = replace(job, fence=claim.lease.fence, recorded_checkpoints=known)
    with declared():
        for fact in finetune(small(), job):
            if crash(fact):
                raise Crash
            recorder.record(fact)


def rows_of(store, run_id):
    points = {(m.name, m.split, m.step): m.value for m in store.metrics.points(run_id)}
    return {key: value for key, value in points.items() if key[0] != "seconds"}


def crash_at(count, kinds):
    """Return a crash before the first fact of these kinds, once ``count`` facts are kept."""
    left = iter(range(count, -1, -1))
    return lambda fact: next(left, 0) == 0 and isinstance(fact, kinds)


def with_crashes(store, job, draw):
    """Work the next run to its end, through at most a dozen crashes; return how many."""
    for crashes in range(13):
        claim = take(store)
        # before a Checkpoint is kept: its folder is there, its row is not
        kinds = Checkpoint | Result if draw.random() < 0.7 else object
        crash = crash_at(draw.randrange(1, 30), kinds) if crashes < 12 else lambda _: False
        try:
            attempt(store, claim, job, crash)
        except Crash:
            store.queue.fail(claim.lease, EndReason.WORKER_LOST, "killed")
            if store.runs.detail(claim.run.id).run.state is RunState.FAILED:
                store.runs.retry(claim.run.id)
            no_back_off(store)
        else:
            return crashes
    raise AssertionError("the last attempt is not made to crash")


@pytest.mark.parametrize("seed", fewer(range(3), 2))
def test_rows_after_many_crashes_are_those_of_the_whole_run(store, tmp_path, seed):
    job = ExecutionContext(tmp_path / "whole", tmp_path, checkpoint_seconds=0.0 if seed else 300.0)
    whole, cut = submit(store, new("whole"), new("cut"))
    attempt(store, take(store), job, lambda _: False)
    crashes = with_crashes(store, replace(job, run_dir=tmp_path / "cut"), random.Random(seed))
    assert crashes >= 3
    assert rows_of(store, cut) == rows_of(store, whole)
    for one, other in zip(
        store.results.evaluations(whole), store.results.evaluations(cut), strict=True
    ):
        assert replace(one, checkpoint="") == replace(other, checkpoint="")
        sha256 = store.results.manifest_sha256(cut, (other.variant, other.selection))
        assert sha256 in {known.sha256 for known in store.checkpoints.list(cut)}
