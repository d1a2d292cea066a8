"""What a worker says of its runs where there is no terminal: one line an event."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from lsqctl.cli.progress import LineObserver, LiveObserver, attempt_end_text, progress_text
from lsqctl.cli.run_detail import IMITATED
from lsqctl.events import Metric, Progress
from lsqctl.run import EndReason, Run, RunState
from lsqctl.store import open_store
from lsqctl.text import format_duration
from lsqctl.worker.messages import ExitReport
from lsqctl.worker.slots import Allocation, Slot
from tests.conftest import TINY
from tests.store.samples import Clock, identity, new, submit, take

RUN = Run("k7x2m9qd", "a", RunState.RUNNING, 0, "r", "s", datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epochs": 25}, "starting"),
        ({"epochs": 0}, "evaluating"),
        ({"epochs": 25, "step": 39, "total_steps": 9775}, "epoch 0/25, step 39/9775"),
        (
            {"epochs": 2, "epoch": 1, "step": 5, "total_steps": 10, "top1": 91.04},
            "epoch 1/2, step 5/10 91.04 %",
        ),
    ],
)
def test_progress_names_no_step_before_there_is_one(changes, told):
    assert progress_text(replace(RUN, **changes)) == told


@pytest.mark.parametrize(
    ("state", "reason", "told"),
    [
        (RunState.SUCCEEDED, EndReason.COMPLETED, "succeeded in 9 s: Top-1 unknown"),
        (RunState.CANCELLED, EndReason.PREEMPTED, "cancelled; lsqctl runs retry k7x2m9qd goes on"),
        (RunState.QUEUED, EndReason.PREEMPTED, "saved and requeued: asked to stop"),
        (RunState.QUEUED, EndReason.WORKER_LOST, "lease lost: why"),
        (RunState.FAILED, EndReason.DIVERGED, "failed: diverged: why; lsqctl runs logs k7x2m9qd"),
    ],
)
def test_the_end_of_an_attempt_is_told_by_what_became_of_its_run(state, reason, told):
    message = "" if reason is EndReason.PREEMPTED else "why"
    line = attempt_end_text(replace(RUN, state=state), ExitReport(reason, message), 9.0)
    assert line.startswith(f"k7x2m9qd  a  {told}")


def test_a_live_table_keeps_each_runs_row_and_in_80_columns_epoch_loss_and_time_left(tmp_path):
    drawn = []
    with open_store(f"sqlite:///{tmp_path}/home/lsqctl.db") as store:
        store.workers.register(identity("w1"))
        submit(store, *(new(f"a-recipe-with-quite-a-long-name-{name}", epochs=9) for name in "abc"))
        observer = LiveObserver(store, print, draw=drawn.append, width=lambda: 80)
        claims = [take(store) for _ in range(2)]
        for claim in claims:
            observer.started(claim.run, Allocation((Slot(0, 1),)), 1)
            store.metrics.resume_at(claim.lease, None)
            store.metrics.start_at(claim.lease, 0)
            loss = [Metric("loss", "train", 4, 0.125)]
            store.metrics.log(claim.lease, loss, Progress(4, 90, 2, 9))
        observer.tick()
        store.queue.fail(claims[0].lease, EndReason.OOM, "out of memory")
        observer.ended(claims[0].run, ExitReport(EndReason.OOM, "out of memory"))
        observer.started(take(store).run, Allocation((Slot(0, 1),)), 1)
        observer._next_draw_at = 0.0
        observer.tick()
    before, after = (text.plain.splitlines() for text in drawn)
    assert before[1].split() == ["run", "epoch", "loss", "Top-1", "left"]
    assert all(word in before[2] for word in ("name-a", "2/9", "0.125"))
    assert before[2].split()[-1] != "0.125"
    assert [line.split()[0][-1] for line in before[2:]] == ["a", "b"]
    assert [line.split()[0][-1] for line in after[2:]] == ["c", "b"]
    assert max(map(len, before + after)) <= 80


def test_the_time_left_is_that_of_this_attempts_training_steps(tmp_path, monkeypatch):
    """Neither the start-up counts, nor the steps of an attempt before, nor the wait for a word."""
    clock = Clock(1000.0)
    monkeypatch.setattr("lsqctl.cli.progress.time.monotonic", clock)

    def left(step: int, *, after: float) -> str:
        clock.seconds += after
        store.metrics.log(claim.lease, [], Progress(step, 100, 0, 1))
        return observer._time_left(store.runs.detail(claim.run.id).run)

    with open_store(f"sqlite:///{tmp_path}/home/lsqctl.db") as store:
        store.workers.register(identity("w1"))
        submit(store, new("a", epochs=1))
        observer = LiveObserver(store, print, draw=print, width=lambda: 80)
        for start in (0, 40):
            claim = take(store)
            observer.started(claim.run, Allocation((Slot(0, 1),)), 1)
            store.metrics.resume_at(claim.lease, start or None)
            assert left(start, after=500.0) == ""  # imports, data
            store.metrics.start_at(claim.lease, start)
            assert left(start, after=0.0) == ""
            assert left(start + 10, after=20.0) == format_duration(2.0 * (90 - start))
            assert left(start + 10, after=10.0) == format_duration(2.0 * (90 - start) - 10)
            assert left(start + 20, after=10.0) == format_duration(2.0 * (80 - start))
            store.queue.release(claim.lease)


@pytest.mark.parametrize("observe", [LineObserver, LiveObserver])
def test_a_worker_says_once_that_a_runs_precision_is_imitated(tmp_path, observe):
    said = []
    extras = {} if observe is LineObserver else {"draw": id, "width": lambda: 80}
    with open_store(f"sqlite:///{tmp_path}/home/lsqctl.db") as store:
        store.workers.register(identity("w1"))
        submit(store, new("slow", epochs=9), new("fast", epochs=9))
        observer = observe(store, said.append, **extras)
        slow, fast = take(store), take(store)
        for claim in (slow, fast):
            observer.started(claim.run, Allocation((Slot(0, 1),)), 1)
        del said[:]
        for precision in (None, "bf16", "bf16"):
            if precision:
                slow_facts = {"precision": precision, "imitated": True}
                store.queue.record_environment(slow.lease, slow_facts)
                store.queue.record_environment(fast.lease, slow_facts | {"imitated": False})
            observer._next_poll_at = 0.0
            observer.tick()
    assert said == [f"{slow.run.id}  slow  computes in {IMITATED}"]


@pytest.mark.parametrize(("code", "told"), [(130, True), (0, False)])
def test_a_run_in_the_foreground_that_was_interrupted_says_how_it_goes_on(
    here, monkeypatch, code, told
):
    (here.folder / "tiny.yaml").write_text(TINY)
    monkeypatch.setattr("lsqctl.cli.worker._work_queue", lambda *_, **__: code)
    ended = here("run", "tiny.yaml", code=code or 5)
    assert ("the same command goes on with them" in ended.stderr) is told
