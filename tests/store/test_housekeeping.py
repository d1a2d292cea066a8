"""Laws of keeping house: what is removed, what is refused, what is seen; on both databases."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from sqlalchemy import func, select

from lsqctl.errors import IllegalTransition, NotFound, UsageError
from lsqctl.events import Metric, Progress
from lsqctl.run import EndReason, RunState
from lsqctl.services.watch import read_queue_status
from lsqctl.store import Store
from lsqctl.store.tables import metadata
from tests.store.samples import checkpoint, identity, lapse, new, no_back_off, result, submit, take


def rows(store: Store) -> dict[str, int]:
    """How many rows each table has."""

    def count(db):
        return {
            t.name: db.scalar(select(func.count()).select_from(t)) for t in metadata.sorted_tables
        }

    return store._database.read(count)


def finish(store: Store) -> str:
    claim = take(store)
    store.checkpoints.record(claim.lease, checkpoint(10), [Metric("top1", "val", 10, 1.0)])
    store.queue.finish(claim.lease, result())
    return claim.run.id


def test_purging_a_run_leaves_no_row_of_it_and_every_row_of_others(store: Store) -> None:
    before = rows(store)
    (kept,) = submit(store, new("kept"))
    finish(store)
    alone = rows(store)
    (gone,) = submit(store, new("gone", sweep="s"))
    finish(store)
    store.runs.update_tags(gone, ["paper"])
    store.trash.purge([gone])
    after = rows(store)
    assert {name: after[name] - alone[name] for name in after if after[name] != alone[name]} == {
        "sweeps": 1,
        "sweep_cells": 1,  # its run is missing, and can be queued again
    }
    assert store.sweeps.cells("s")[0].run is None
    store.trash.purge([kept])
    assert rows(store)["metric_points"] == before["metric_points"]
    with pytest.raises(NotFound):
        store.trash.purge([kept])


def test_a_running_run_is_not_removed_nor_anything_with_it(store: Store) -> None:
    a, b = submit(store, new("a"), new("b"))
    claim = take(store)
    with pytest.raises(IllegalTransition, match=f"runs cancel {a}"):
        store.trash.remove([b, a], force=True)
    assert len(store.runs.list()) == 2
    store.queue.release(claim.lease)
    store.trash.remove([a, b])
    assert store.runs.list() == []


def test_what_others_start_from_goes_only_with_them_or_by_force_when_they_are_done(
    store: Store,
) -> None:
    parent, child = submit(store, new("parent"), new("child", parents=["parent"]))
    finish(store)
    for force in (False, True):
        with pytest.raises(IllegalTransition, match="would start from"):
            store.trash.remove([parent], force=force)
    finish(store)
    with pytest.raises(IllegalTransition, match="--force"):
        store.trash.remove([parent])
    store.trash.remove([parent], force=True)
    assert [run.id for run in store.runs.list()] == [child]
    assert store.runs.detail(child).parents == {}
    assert store.maintenance.check() == []


def test_a_parent_and_its_children_go_together(store: Store) -> None:
    ids = submit(store, new("parent"), new("child", parents=["parent"]))
    store.trash.purge(ids)
    assert rows(store)["run_parents"] == 0


def test_tags_are_a_set_and_find_their_runs(store: Store) -> None:
    a, b = submit(store, new("a"), new("b"))
    store.runs.update_tags(a, ["paper", "x"])
    store.runs.update_tags(a, ["paper"], ["x", "never"])
    store.runs.update_tags(b, ["y"])
    assert store.runs.tags([a, b]) == {a: ("paper",), b: ("y",)}
    assert [run.id for run in store.runs.list(tag="paper")] == [a]
    for bad in ("", "-x", "a b", "ü", "x" * 65, "a\n"):
        with pytest.raises(UsageError):
            store.runs.update_tags(a, [bad])
    with pytest.raises(NotFound):
        store.runs.update_tags("zzzzzzzz", ["x"])


def test_a_note_is_kept_and_can_be_taken_away(store: Store) -> None:
    (run,) = submit(store, new("a"))
    store.runs.set_note(run, "für den Vortrag")
    assert store.runs.detail(run).run.note == "für den Vortrag"
    store.runs.set_note(run, "")
    assert store.runs.list()[0].note == ""


def test_checkpoints_of_a_run_that_is_tried_again_are_not_forgotten(store: Store) -> None:
    (run,) = submit(store, new("a"))
    claim = take(store)
    store.checkpoints.record(claim.lease, checkpoint(10))
    store.checkpoints.record(claim.lease, checkpoint(20))
    assert not store.checkpoints.delete(run, ["ckpt-10"])
    store.queue.fail(claim.lease, EndReason.OOM, "")
    housed = store.checkpoints.retention([run])[run]
    assert (housed.state, housed.stored) == (RunState.FAILED, {"ckpt-10", "ckpt-20"})
    assert store.checkpoints.delete(run, ["ckpt-10"])
    assert [Path(one.directory).name for one in store.checkpoints.list(run)] == ["ckpt-20"]
    store.runs.retry(run)
    assert not store.checkpoints.delete(run, ["ckpt-20"])


def test_a_look_shows_running_runs_with_their_latest_points_only(store: Store) -> None:
    submit(store, new("a", sweep="s"), new("b"))
    claim = take(store)
    store.metrics.resume_at(claim.lease, None)
    store.metrics.start_at(claim.lease, 0)
    points = [Metric("loss", "train", step, float(step)) for step in range(100)]
    points += [Metric("top1", "val", 50, math.nan), Metric("top1", "train", 60, 1.0)]
    store.metrics.log(claim.lease, points, Progress(100, 200, 1, 2))
    seen = read_queue_status(store)
    (running,) = seen.overview.running
    assert running.loss == tuple(float(step) for step in range(76, 100))
    assert math.isnan(running.top1[0])
    assert seen.seconds_left[claim.run.id] >= 0
    assert {s: n for s, n in seen.overview.counts.items() if n} == {"running": 1, "queued": 1}
    assert [one.running_runs for one in seen.workers] == [1]
    assert read_queue_status(store, sweep="s").n_active == 1


def test_the_rate_after_a_resume_counts_from_where_the_attempt_took_up(store: Store) -> None:
    submit(store, new("a"))
    claim = take(store)
    store.checkpoints.record(claim.lease, checkpoint(90))
    store.metrics.log(claim.lease, [], Progress(90, 100, 9, 10))
    store.queue.release(claim.lease)
    again = take(store)
    assert read_queue_status(store).seconds_left == {}  # not a step yet: nobody can tell
    store.metrics.resume_at(again.lease, 90)
    assert read_queue_status(store).seconds_left == {}
    assert store.metrics.training_start(again.run.id) is None  # data are still being read
    store.metrics.start_at(again.lease, 90)
    started = store.metrics.training_start(again.run.id)
    assert started == (90, pytest.approx(0.0, abs=5.0))
    store.metrics.log(again.lease, [], Progress(91, 100, 9, 10))
    seen = read_queue_status(store)
    base = seen.overview.running[0]
    assert base.start_step == 90
    elapsed = (seen.overview.now - base.training_since).total_seconds()
    assert seen.seconds_left[again.run.id] == pytest.approx(elapsed * 9)


def test_the_first_failure_since_the_queue_was_filled_is_shown_with_its_reason(
    store: Store,
) -> None:
    submit(store, new("old"))
    store.queue.fail(take(store).lease, EndReason.OOM, "last week")
    assert read_queue_status(store).overview.first_failure.message == "last week"
    submit(store, new("a"), new("child", parents=["a"]), new("b"), new("c"))
    assert read_queue_status(store).overview.first_failure is None
    store.queue.fail(take(store).lease, EndReason.DIVERGED, "the loss is nan")
    store.queue.fail(take(store).lease, EndReason.OOM, "later")
    assert read_queue_status(store).overview.first_failure.message == "the loss is nan"


def test_the_last_failure_of_an_empty_queue_is_the_cause_and_not_a_child_that_fell_with_it(
    store: Store,
) -> None:
    submit(store, new("a"), new("child", parents=["a"]), new("grandchild", parents=["child"]))
    store.queue.fail(take(store).lease, EndReason.DIVERGED, "the loss is nan")
    assert read_queue_status(store).overview.first_failure.message == "the loss is nan"


def test_a_run_that_is_put_back_after_a_fault_says_why_and_is_pending(store: Store) -> None:
    (run,) = submit(store, new("a"))
    store.queue.fail(take(store).lease, EndReason.INFRA, "disk full")
    assert [one.message for one in read_queue_status(store).overview.retrying] == ["disk full"]
    assert store.runs.statuses([run])[0].state is RunState.QUEUED
    no_back_off(store)
    take(store)
    assert read_queue_status(store).overview.retrying == ()


def test_a_worker_that_does_not_renew_is_lost_and_one_that_left_is_not_there(store: Store) -> None:
    store.workers.register(identity("w2"))
    submit(store, new("a"))
    claim = take(store)
    lapse(store, claim.run.id)
    store._database.write(
        lambda db: db.exec_driver_sql(
            "UPDATE workers SET last_heartbeat_at = '2020-01-01T00:00:00.000' WHERE id = 'w1'"
        )
    )
    store.workers.deregister("w2")
    (one,) = read_queue_status(store).workers
    assert (one.worker.identity.id, one.stale, one.running_runs) == ("w1", True, 1)
    assert read_queue_status(store).seconds_left == {}


def test_the_queue_is_estimated_only_from_what_was_measured(store: Store) -> None:
    submit(store, new("a"), new("a", seed=1), new("a", seed=2))
    assert read_queue_status(store).estimate.seconds is None
    finish(store)
    seen = read_queue_status(store)
    took = seen.overview.durations[0].seconds
    assert seen.estimate.seconds == pytest.approx(2 * took)
    submit(store, new("other"))
    assert "1 run of a kind" in read_queue_status(store).estimate.reason
    store.workers.deregister("w1")
    assert read_queue_status(store).estimate.reason == "no worker is at work"


def test_standing_is_in_the_order_asked_and_leaves_out_what_was_removed(store: Store) -> None:
    a, b = submit(store, new("a"), new("b", seed=3))
    assert [one.id for one in store.runs.statuses([b, "zzzzzzzz", a])] == [b, a]
    assert store.runs.statuses([b])[0].seed == 3
