"""Laws of sweeps: cells by hash, limits, resuming; and of holding, priorities and reruns."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import delete

from lsqctl.errors import IllegalTransition, NotFound, UsageError
from lsqctl.run import EndReason, EnqueueOutcome, NewRun, RunState
from lsqctl.store import Store, open_store
from lsqctl.store.sweeps import ResumeOptions
from lsqctl.store.tables import runs
from tests.store.samples import checkpoint, identity, new, result, submit, take


def cell(name: str, **options: Any) -> NewRun:
    return new(name, **{"sweep": "s", "cell": name} | options)


def cells(store: Store, sweep: str = "s") -> dict[str, str]:
    """How each cell stands, by its label."""
    return {one.cell: one.status for one in store.sweeps.cells(sweep)}


def state(store: Store, run_id: str) -> RunState:
    return store.runs.detail(run_id).run.state


def fail(store: Store, reason: EndReason = EndReason.CODE) -> str:
    claim = take(store)
    store.queue.fail(claim.lease, reason, "why")
    return claim.run.id


def remove(store: Store, *run_ids: str) -> None:
    for run_id in run_ids:
        store._database.write(
            lambda db, one=run_id: db.execute(delete(runs).where(runs.c.id == one))
        )


def everything(store: Store) -> tuple[Any, ...]:
    events = [store.runs.events(run.id) for run in store.runs.list()]
    return store.runs.list(), store.sweeps.cells("s"), store.sweeps.summaries(), events


# cells


def test_a_cell_keeps_its_run_when_an_axis_gives_it_another_label(store: Store) -> None:
    (first,) = submit(store, cell("a", cell="lr0.1"))
    done = store.queue.enqueue([cell("a", cell="lr0.1-epochs2"), cell("b", cell="lr0.1-epochs3")])
    assert [one.outcome for one in done] == [EnqueueOutcome.EXISTS, EnqueueOutcome.QUEUED]
    found = {one.cell: one.run and one.run.id for one in store.sweeps.cells("s")}
    assert found == {"lr0.1-epochs2": first, "lr0.1-epochs3": done[1].run.id}


def test_one_run_may_be_a_cell_of_two_sweeps(store: Store) -> None:
    (first,) = submit(store, cell("a"))
    (again,) = submit(store, cell("a", sweep="t"))
    assert first == again
    assert cells(store, "s") == cells(store, "t") == {"a": "queued"}


def test_a_cell_points_to_the_newest_rerun_and_a_later_submission_leaves_it_there(
    store: Store,
) -> None:
    submit(store, cell("a"))
    store.queue.finish(take(store).lease, result())
    (rerun,) = store.queue.enqueue([cell("a")], if_exists="rerun")
    store.queue.enqueue([cell("a")])
    (found,) = store.sweeps.cells("s")
    assert found.run is not None
    assert found.run.id == rerun.run.id
    fail(store)
    store.queue.enqueue([cell("a")])
    (found,) = store.sweeps.cells("s")
    assert found.run is not None
    assert found.run.state is RunState.SUCCEEDED, "the older one stands for the cell again"


def test_a_rerun_of_parent_and_child_makes_the_new_child_wait_for_the_new_parent(
    store: Store,
) -> None:
    submit(store, new("p"))
    store.queue.finish(take(store).lease, result())
    parent, child = store.queue.enqueue([new("p"), new("c", parents=["p"])], if_exists="rerun")
    assert store.runs.detail(child.run.id).parents == {"role0": parent.run.id}
    assert child.outcome is EnqueueOutcome.WAITING


@pytest.mark.parametrize("if_exists", ["rerun", "error"])
def test_a_parent_that_is_only_needed_is_reused_whatever_is_said_of_the_others(
    store: Store, if_exists: Any
) -> None:
    submit(store, new("p"))
    failed = fail(store)
    wanted = [new("p", explicit=False), new("c", parents=["p"])]
    parent, child = store.queue.enqueue(wanted, if_exists=if_exists)
    assert (parent.run.id, parent.outcome) == (failed, EnqueueOutcome.RETRIED)
    assert store.runs.detail(child.run.id).parents == {"role0": failed}


def test_error_refuses_a_sweep_of_which_one_cell_is_there_and_adds_none(store: Store) -> None:
    submit(store, cell("b"))
    failed = fail(store)
    before = everything(store)
    with pytest.raises(UsageError, match=failed):
        store.queue.enqueue([cell("a"), cell("b"), cell("c")], if_exists="error")
    assert everything(store) == before


def test_skip_puts_back_the_failed_cells_and_their_children_and_says_so(store: Store) -> None:
    wanted = [cell("p"), cell("c", parents=["p"]), cell("other")]
    submit(store, *wanted)
    fail(store)
    assert cells(store) == {"p": "failed", "c": "failed", "other": "queued"}
    outcomes = [one.outcome for one in store.queue.enqueue(wanted)]
    assert outcomes == [EnqueueOutcome.RETRIED, EnqueueOutcome.RETRIED, EnqueueOutcome.EXISTS]
    assert cells(store) == {"p": "queued", "c": "waiting", "other": "queued"}
    assert len(store.runs.list()) == 3


def test_a_list_of_sweeps_counts_how_their_cells_stand(store: Store) -> None:
    submit(store, cell("a"), cell("b"), cell("c"), cell("d", parents=["c"]))
    store.queue.finish(take(store).lease, result())
    fail(store)
    store.runs.hold(store.runs.resolve("c").id)
    submit(store, new("x", sweep="t"))
    remove(store, store.runs.resolve("x").id)
    first, second = store.sweeps.summaries()
    assert (first.name, dict(first.counts)) == (
        "s",
        {"succeeded": 1, "failed": 1, "held": 1, "waiting": 1},
    )
    assert (second.name, dict(second.counts)) == ("t", {"missing": 1})
    assert Counter(cells(store).values()) == first.counts


# limits


def limited(store: Store, limit: int, *wanted: NewRun) -> list[str]:
    return [one.run.id for one in store.queue.enqueue(wanted, max_failures=limit)]


def test_the_failure_that_is_one_too_many_stops_the_rest_of_its_sweep_alone(store: Store) -> None:
    ids = limited(store, 2, *map(cell, "abcd"), cell("e", parents=["d"]))
    (other,) = submit(store, new("other", sweep="t"))
    child, *_ = submit(store, new("child", parents=["d"]))
    running = take(store)
    fail(store)
    assert state(store, ids[3]) is RunState.QUEUED, "one failure is allowed"
    fail(store)
    stopped = [store.runs.detail(ids[i]).run for i in (3, 4)]
    for run in stopped:
        assert (run.state, run.reason) == (RunState.CANCELLED, EndReason.CANCELLED)
        assert run.message == "sweep s: 2 cells failed (--max-failures 2)"
    assert state(store, child) is RunState.CANCELLED
    assert state(store, other) is RunState.QUEUED
    assert store.queue.renew(running.lease).cancel_requested
    store.queue.fail(running.lease, EndReason.CANCELLED, "cancelled by request")
    ended = store.runs.detail(running.run.id).run
    assert (ended.state, ended.message) == (RunState.CANCELLED, stopped[0].message)
    assert store.maintenance.check() == []


@pytest.mark.parametrize("reason", [EndReason.CANCELLED, EndReason.INFRA, EndReason.PREEMPTED])
def test_what_is_no_failure_of_its_own_stops_nothing(store: Store, reason: EndReason) -> None:
    ids = limited(store, 1, cell("a"), cell("b"))
    store.queue.fail(take(store).lease, reason, "why")
    assert state(store, ids[1]) is RunState.QUEUED


def test_a_cell_that_failed_with_its_parent_does_not_count(store: Store) -> None:
    *_, last = limited(
        store, 2, cell("p"), cell("c", parents=["p"]), cell("d", parents=["p"]), cell("e")
    )
    fail(store)
    assert cells(store) == {"p": "failed", "c": "failed", "d": "failed", "e": "queued"}
    fail(store)
    assert state(store, last) is RunState.FAILED


def test_a_dead_workers_last_attempt_counts_too(store: Store) -> None:
    from lsqctl.run import MAX_CONSECUTIVE_FAILURES
    from tests.store.samples import lapse, no_back_off

    ids = limited(store, 1, cell("a", priority=1), cell("b"))
    for _ in range(MAX_CONSECUTIVE_FAILURES):
        assert state(store, ids[1]) is RunState.QUEUED
        claim = take(store)
        lapse(store, claim.run.id)
        store.queue.reap(is_dead=lambda worker: True)
        no_back_off(store)
    assert state(store, ids[1]) is RunState.CANCELLED


def test_the_limit_holds_until_another_is_given_and_counts_anew_after_a_resume(
    store: Store,
) -> None:
    limited(store, 1, cell("a"), cell("b"), cell("c"))
    fail(store)
    assert cells(store) == {"a": "failed", "b": "cancelled", "c": "cancelled"}
    store.sweeps.resume("s", ResumeOptions())
    assert set(cells(store).values()) == {"queued"}
    fail(store)
    assert cells(store) == {"a": "failed", "b": "cancelled", "c": "cancelled"}
    store.sweeps.resume("s", ResumeOptions(max_failures=0))
    fail(store)
    assert cells(store) == {"a": "failed", "b": "queued", "c": "queued"}
    store.queue.enqueue([cell("d")])
    assert store.sweeps.summaries()[0].max_failures is None


def test_a_sweep_stops_while_workers_claim_from_it_and_no_cell_is_forgotten(
    store: Store, url: str
) -> None:
    """Eight workers at once: whoever has claimed a cell is asked to stop, the rest is cancelled."""
    limited(store, 1, *(cell(f"c{number}") for number in range(80)))
    store.workers.register(identity("w1"))
    start = Barrier(8)

    def work(number: int) -> None:
        with open_store(url) as own:
            start.wait()
            while (claim := own.queue.claim("w1")) is not None:
                asked = own.queue.renew(claim.lease).cancel_requested
                reason = EndReason.CANCELLED if asked else EndReason.CODE
                own.queue.fail(claim.lease, reason, "why")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    (summary,) = store.sweeps.summaries()
    assert set(summary.counts) == {"failed", "cancelled"}
    assert 1 <= summary.counts["failed"] <= 8
    assert sum(summary.counts.values()) == 80
    assert store.maintenance.check() == []


# resuming


def test_failed_and_cancelled_cells_go_on_from_their_checkpoints(store: Store) -> None:
    ids = submit(store, cell("a"), cell("b"), cell("c"))
    claim = take(store)
    store.checkpoints.record(claim.lease, checkpoint(5))
    store.queue.fail(claim.lease, EndReason.CODE, "bug")
    store.runs.cancel(ids[1])
    done = store.sweeps.resume("s", ResumeOptions(missing=False))
    assert {one.run.name: one.outcome for one in done} == {
        "a": EnqueueOutcome.RETRIED,
        "b": EnqueueOutcome.RETRIED,
    }
    assert [one.step for one in store.checkpoints.list(ids[0])] == [5]
    assert set(cells(store).values()) == {"queued"}


def test_from_scratch_forgets_the_checkpoints_before_anyone_can_claim(store: Store) -> None:
    parent, child = submit(store, cell("p"), cell("c", parents=["p"]))
    claim = take(store)
    store.checkpoints.record(claim.lease, checkpoint(5))
    store.queue.fail(claim.lease, EndReason.CODE, "bug")
    forgotten: list[str] = []
    store.sweeps.resume("s", ResumeOptions(from_scratch=True), delete_files=forgotten.append)
    assert sorted(forgotten) == sorted((parent, child))
    assert store.checkpoints.list(parent) == []
    assert cells(store) == {"p": "queued", "c": "waiting"}


def test_a_removed_cell_is_queued_again_as_it_was_submitted(store: Store) -> None:
    wanted = cell("a", seed=3, priority=4, gpus=2, time_limit_seconds=60.0, epochs=7)
    (first,) = submit(store, wanted)
    before = store.runs.detail(first)
    remove(store, first)
    assert cells(store) == {"a": "missing"}
    (done,) = store.sweeps.resume("s", ResumeOptions(failed=False))
    assert (done.outcome, done.run.name, done.run.seed) == (EnqueueOutcome.QUEUED, "a", 3)
    after = store.runs.detail(done.run.id)
    assert done.run.id != first
    assert (after.recipe, after.provenance) == (before.recipe, before.provenance)
    run = after.run
    assert (run.priority, run.gpus, run.time_limit_seconds, run.epochs) == (4, 2, 60.0, 7)
    assert run.run_sha256 == wanted.run_sha256
    assert cells(store) == {"a": "queued"}
    assert store.sweeps.resume("s", ResumeOptions()) == []


def test_a_removed_run_of_two_sweeps_is_queued_again_once_for_both(store: Store) -> None:
    (first,) = submit(store, cell("a"))
    submit(store, cell("a", sweep="t"))
    remove(store, first)
    store.sweeps.resume("t", ResumeOptions())
    assert cells(store, "s") == cells(store, "t") == {"a": "queued"}
    assert len(store.runs.list()) == 1


def test_a_removed_cell_brings_back_its_parent_if_that_is_a_cell_of_any_sweep(
    store: Store,
) -> None:
    parent, child = submit(store, cell("p", sweep="t"), cell("c", parents=["p"]))
    remove(store, child, parent)
    (done,) = store.sweeps.resume("s", ResumeOptions())
    assert done.outcome is EnqueueOutcome.WAITING
    assert cells(store, "t") == {"p": "queued"}
    assert cells(store, "s") == {"c": "waiting"}


def test_a_removed_parent_that_no_sweep_knows_is_named_and_nothing_is_changed(
    store: Store,
) -> None:
    parent, first, second, _ = submit(
        store, new("p"), cell("a"), cell("c", parents=["p"]), cell("b")
    )
    remove(store, second, parent)
    store.runs.cancel(first)
    before = everything(store)
    with pytest.raises(NotFound, match=r"`c` seed 0 needs .*removed"):
        store.sweeps.resume("s", ResumeOptions())
    assert everything(store) == before


def test_a_dry_run_says_the_same_and_changes_nothing(store: Store) -> None:
    first, second = submit(store, cell("a"), cell("b"))
    store.runs.cancel(first)
    remove(store, second)
    before = everything(store)
    told = store.sweeps.resume("s", ResumeOptions(dry_run=True, max_failures=1))
    assert everything(store) == before
    done = store.sweeps.resume("s", ResumeOptions())
    assert [(a.run.name, a.outcome) for a in told] == [(b.run.name, b.outcome) for b in done]
    assert [one.outcome for one in done] == [EnqueueOutcome.RETRIED, EnqueueOutcome.QUEUED]


def test_an_unknown_sweep_is_not_resumed(store: Store) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        store.sweeps.resume("nowhere", ResumeOptions())


# holding and priorities


def test_a_submission_may_be_held_and_holds_what_it_puts_back(store: Store) -> None:
    submit(store, new("old"), new("queued"))
    fail(store)
    store.queue.enqueue([new(name, held=True) for name in ("old", "queued", "new")])
    assert {run.name: run.held for run in store.runs.list()} == {
        "old": True,
        "queued": False,
        "new": True,
    }


def test_held_runs_and_those_behind_them_are_not_able_to_go_on(store: Store) -> None:
    ids = submit(
        store, new("p"), new("c", parents=["p"]), new("d", parents=["c"]), new("x"), new("y")
    )
    assert store.queue.remaining() == (5, 0, 0)
    store.runs.hold(ids[0])
    assert store.queue.remaining() == (2, 1, 2)
    running = take(store)
    store.runs.hold(running.run.id)
    assert store.queue.remaining() == (2, 1, 2), "a held run that runs goes on"
    store.queue.release(running.lease)
    assert store.queue.remaining() == (1, 2, 2)
    store.runs.hold(ids[0], held=False)
    store.runs.hold(ids[1])
    assert store.queue.remaining() == (2, 2, 1)


def test_a_finished_run_is_not_held_nor_given_a_priority(store: Store) -> None:
    submit(store, new("a"))
    failed = fail(store)
    for change in (store.runs.hold, lambda run_id: store.runs.prioritize(run_id, priority=3)):
        with pytest.raises(IllegalTransition, match="failed"):
            change(failed)


def test_of_several_runs_all_are_held_or_given_a_priority_or_none(store: Store) -> None:
    submit(store, new("a"))
    failed = fail(store)
    (fine,) = submit(store, new("b"))
    for change in (store.runs.hold, partial(store.runs.prioritize, priority=3)):
        with pytest.raises(IllegalTransition, match="failed"):
            change(fine, failed)
    run = store.runs.detail(fine).run
    assert (run.held, run.priority) == (False, 0)


def test_a_waiting_run_that_is_hurried_hurries_its_parents_and_never_slows_them(
    store: Store,
) -> None:
    first, parent, child = submit(store, new("x"), new("p"), new("c", parents=["p"]))
    store.runs.prioritize(child, priority=5)
    assert [store.runs.detail(one).run.priority for one in (first, parent, child)] == [0, 5, 5]
    store.runs.prioritize(child, priority=-2)
    assert store.runs.detail(parent).run.priority == 5
    assert take(store).run.id == parent
    submit(store, new("y"), new("z", parents=["y", "x"], priority=9))
    assert take(store).run.name in {"x", "y"}
    assert {run.priority for run in store.runs.list() if run.name in "xy"} == {9}
