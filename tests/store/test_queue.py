"""Laws of the queue, on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from lsqctl.errors import IllegalTransition, LeaseLost, NotFound, UsageError
from lsqctl.run import (
    MAX_FAILURES,
    EndReason,
    IfExists,
    Lease,
    Metric,
    Outcome,
    Progress,
    Run,
    RunState,
)
from lsqctl.store import Store
from lsqctl.store.enqueue import ALPHABET
from tests.store.conftest import LEASE
from tests.store.samples import (
    Clock,
    checkpoint,
    lapse,
    new,
    no_back_off,
    result,
    submit,
    take,
    zombie,
)


def state(store: Store, run_id: str) -> RunState:
    return store.detail(run_id).run.state


def test_runs_are_claimed_by_priority_then_age_and_never_while_held(store: Store) -> None:
    submit(store, new("a"), new("b"), new("held", priority=9), new("c", priority=5))
    store.hold(store.resolve("held").id)
    assert [take(store).run.name for _ in range(3)] == ["c", "a", "b"]
    assert store.claim("w1") is None
    store.hold(store.resolve("held").id, False)
    assert take(store).run.name == "held"


def test_a_claim_carries_all_that_the_worker_needs(store: Store) -> None:
    submit(store, new("parent"), new("child", parents=["parent"]))
    parent = take(store)
    store.settle(parent.lease, {"device": "cpu", "threads": 2, "compile": False, "torch": "2"})
    store.finish(parent.lease, result())
    child = take(store)
    assert child.run.state is RunState.RUNNING
    assert child.recipe["model"] == {"name": "resnet8"}
    assert child.snapshot == {"code_commit": "abc", "code_dirty": False}
    assert child.parents == {"role0": parent.run.id}
    assert child.circumstances == {}


def test_the_first_attempts_device_threads_and_compile_hold_for_the_later_ones(
    store: Store,
) -> None:
    submit(store, new("a"))
    first = take(store)
    store.settle(first.lease, {"device": "cpu", "threads": 2, "compile": False, "torch": "2"})
    store.release(first.lease)
    second = take(store)
    assert second.circumstances == {"device": "cpu", "threads": 2, "compile": False}
    store.settle(second.lease, {"device": "cuda", "threads": 4})
    store.release(second.lease)
    assert take(store).circumstances == second.circumstances
    tries = store.detail(first.run.id).attempts
    assert [dict(each.circumstances)["device"] for each in tries] == ["cpu", "cuda", "cpu"]


def test_an_unregistered_worker_gets_nothing(store: Store) -> None:
    submit(store, new("a"))
    with pytest.raises(NotFound, match="w9"):
        store.claim("w9")
    assert store.counts()[RunState.QUEUED] == 1


WRITES: dict[str, Any] = {
    "renew": lambda s, lease: s.renew(lease),
    "settle": lambda s, lease: s.settle(lease, {"device": "tpu"}),
    "progress": lambda s, lease: s.progress(lease, Progress(9, 9, 9, 9)),
    "log_metrics": lambda s, lease: s.log_metrics(lease, [Metric("top1", "test", 7, 1.0)]),
    "record_checkpoint": lambda s, lease: s.record_checkpoint(
        lease, checkpoint(7), [Metric("top1", "test", 7, 1.0)], ["/runs/ckpt-5"]
    ),
    "resume_at": lambda s, lease: s.resume_at(lease, None),
    "note": lambda s, lease: s.note(lease, "zombie"),
    "finish": lambda s, lease: s.finish(lease, result()),
    "fail": lambda s, lease: s.fail(lease, EndReason.CODE, "zombie"),
    "release": lambda s, lease: s.release(lease),
}


def everything(store: Store, run_id: str) -> tuple[Any, ...]:
    parts = store.detail, store.metrics, store.summaries, store.checkpoints, store.result
    return *(part(run_id) for part in parts), store.events(run_id)


@pytest.mark.parametrize("write", WRITES)
def test_a_zombies_write_changes_nothing(store: Store, write: str) -> None:
    submit(store, new("a"))
    dead = take(store).lease
    store.release(dead)
    alive = take(store).lease
    store.log_metrics(alive, [Metric("top1", "test", 5, 2.0)])
    store.record_checkpoint(alive, checkpoint(5))
    before = everything(store, alive.run_id)
    for stale in (dead, zombie(alive), Lease(alive.run_id, 1, alive.fence)):
        with pytest.raises(LeaseLost, match=alive.run_id):
            WRITES[write](store, stale)
    assert everything(store, alive.run_id) == before
    store.finish(alive, result())
    finished = everything(store, alive.run_id)
    with pytest.raises(LeaseLost, match="succeeded"):
        WRITES[write](store, alive)
    assert everything(store, alive.run_id) == finished


def test_a_run_id_is_eight_characters_of_an_alphabet_without_vowels(store: Store) -> None:
    (run_id,) = submit(store, new("a"))
    assert len(run_id) == 8
    assert set(run_id) <= set(ALPHABET)
    assert not set(ALPHABET) & set("aeiouyl01")


def test_the_same_run_is_skipped_refused_or_added_as_asked(store: Store) -> None:
    (first,) = submit(store, new("a"))
    (skipped,) = store.enqueue([new("a")])
    assert (skipped.run.id, skipped.outcome) == (first, Outcome.EXISTS)
    with pytest.raises(UsageError, match=first):
        store.enqueue([new("a")], if_exists="error")
    (again,) = store.enqueue([new("a")], if_exists="rerun")
    assert again.run.id != first
    assert again.outcome is Outcome.QUEUED


@pytest.mark.parametrize("if_exists", ["skip", "rerun", "error"])
def test_a_submission_is_all_or_nothing(store: Store, if_exists: IfExists) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        store.enqueue([new("a", sweep="s"), new("nowhere", parents=["gone"])], if_exists=if_exists)
    assert store.runs() == []
    assert store.sweeps() == []


def test_a_failed_run_is_put_back_when_submitted_again(store: Store) -> None:
    submit(store, new("a"))
    failed = take(store)
    store.fail(failed.lease, EndReason.OOM, "too big")
    (again,) = store.enqueue([new("a")])
    assert (again.run.id, again.outcome) == (failed.run.id, Outcome.RETRIED)
    assert again.run.state is RunState.QUEUED
    assert again.run.reason is None
    assert take(store).lease.attempt == 2


def test_a_child_waits_until_all_its_parents_have_succeeded(store: Store) -> None:
    ids = submit(store, new("p"), new("q"), new("child", parents=["p", "q"]))
    first, second = take(store), take(store)
    assert store.claim("w1") is None
    store.finish(first.lease, result())
    assert state(store, ids[2]) is RunState.WAITING
    store.finish(second.lease, result())
    assert state(store, ids[2]) is RunState.QUEUED
    (late,) = store.enqueue([new("late", parents=["p", "q"])])
    assert late.outcome is Outcome.QUEUED


@pytest.mark.parametrize("ends", ["fail", "cancel"])
def test_children_fail_with_their_parent_and_wait_again_with_its_retry(
    store: Store, ends: str
) -> None:
    chain = [new("p"), new("child", parents=["p"]), new("grandchild", parents=["child"])]
    parent, child, grandchild = submit(store, *chain)
    if ends == "fail":
        store.fail(take(store).lease, EndReason.DIVERGED, "NaN")
    else:
        store.cancel(parent)
    for run_id, cause in ((child, parent), (grandchild, child)):
        run = store.detail(run_id).run
        assert (run.state, run.reason) == (RunState.FAILED, EndReason.PARENT)
        assert cause in run.message
    assert store.retry(parent) is RunState.QUEUED
    assert state(store, child) is RunState.WAITING
    assert state(store, grandchild) is RunState.WAITING
    assert store.check() == []


def test_putting_a_child_back_puts_its_dead_parents_back_too(store: Store) -> None:
    ids = submit(store, new("p"), new("q"), new("child", parents=["p", "q"]))
    store.cancel(ids[0])
    store.cancel(ids[1])
    assert store.retry(ids[0]) is RunState.QUEUED
    assert state(store, ids[2]) is RunState.FAILED  # q is still dead
    assert store.retry(ids[2]) is RunState.WAITING
    assert state(store, ids[1]) is RunState.QUEUED
    (other,) = store.enqueue([new("other", parents=["p"])])
    assert other.outcome is Outcome.WAITING


def test_submitting_a_child_of_a_dead_parent_puts_the_parent_back(store: Store) -> None:
    (parent,) = submit(store, new("p"))
    store.cancel(parent)
    (child,) = store.enqueue([new("child", parents=["p"])])
    assert child.outcome is Outcome.WAITING
    assert state(store, parent) is RunState.QUEUED


@pytest.mark.parametrize("reason", [EndReason.LOST, EndReason.INFRA])
def test_a_fault_of_the_machine_is_tried_three_times_with_back_off(
    store: Store, reason: EndReason
) -> None:
    submit(store, new("a"))
    for attempt in range(1, MAX_FAILURES):
        claim = take(store)
        assert claim.lease.attempt == attempt
        assert store.fail(claim.lease, reason, "disk") is RunState.QUEUED
        assert store.claim("w1") is None, "the back-off is not over"
        no_back_off(store)
    assert store.fail(take(store).lease, reason, "disk") is RunState.FAILED


def test_an_attempt_that_moved_the_checkpoint_forward_does_not_count(store: Store) -> None:
    submit(store, new("a"))
    for attempt in range(1, 2 * MAX_FAILURES):
        claim = take(store)
        store.record_checkpoint(claim.lease, checkpoint(attempt))
        assert store.fail(claim.lease, EndReason.INFRA, "disk") is RunState.QUEUED
        no_back_off(store)
    for _ in range(MAX_FAILURES - 1):  # the same step again is no progress
        claim = take(store)
        store.record_checkpoint(claim.lease, checkpoint(1))
        assert store.fail(claim.lease, EndReason.INFRA, "disk") is RunState.QUEUED
        no_back_off(store)
    assert store.fail(take(store).lease, EndReason.INFRA, "disk") is RunState.FAILED


@pytest.mark.parametrize(
    "reason", [EndReason.OOM, EndReason.DIVERGED, EndReason.RECIPE, EndReason.CODE]
)
def test_a_fault_of_the_recipe_is_not_tried_again(store: Store, reason: EndReason) -> None:
    submit(store, new("a"))
    claim = take(store)
    assert store.fail(claim.lease, reason, "why") is RunState.FAILED
    run = store.detail(claim.run.id).run
    assert (run.reason, run.message) == (reason, "why")


def test_a_preempted_run_is_queued_at_once_and_spends_no_attempt(store: Store) -> None:
    submit(store, new("a"))
    for _ in range(2 * MAX_FAILURES):
        store.release(take(store).lease)
    assert store.fail(take(store).lease, EndReason.PREEMPTED, "") is RunState.QUEUED
    store.finish(take(store).lease, result())


def test_a_renewal_brings_the_cancel_request_and_the_run_ends_cancelled(store: Store) -> None:
    submit(store, new("a"))
    claim = take(store)
    assert not store.renew(claim.lease).cancel_requested
    assert store.cancel(claim.run.id) is RunState.RUNNING
    assert store.renew(claim.lease).cancel_requested
    assert store.fail(claim.lease, EndReason.CANCELLED, "asked") is RunState.CANCELLED
    store.retry(claim.run.id)
    assert not store.renew(take(store).lease).cancel_requested


@pytest.mark.parametrize("end", ["release", "infra"])
def test_a_run_that_is_to_be_cancelled_is_not_queued_again(store: Store, end: str) -> None:
    submit(store, new("a"))
    claim = take(store)
    store.cancel(claim.run.id)
    if end == "release":
        store.release(claim.lease)
    else:
        store.fail(claim.lease, EndReason.INFRA, "disk")
    assert state(store, claim.run.id) is RunState.CANCELLED


def test_only_the_legal_moves_are_made(store: Store) -> None:
    (run_id,) = submit(store, new("a"))
    with pytest.raises(IllegalTransition, match="queued"):
        store.retry(run_id)
    store.finish(take(store).lease, result())
    with pytest.raises(IllegalTransition, match="succeeded"):
        store.cancel(run_id)
    with pytest.raises(IllegalTransition, match="succeeded"):
        store.retry(run_id)
    with pytest.raises(NotFound, match="nosuchid"):
        store.cancel("nosuchid")


def test_a_retry_from_scratch_forgets_metrics_and_checkpoints(store: Store) -> None:
    submit(store, new("a"))
    claim = take(store)
    store.settle(claim.lease, {"device": "cuda", "threads": 2})
    store.record_checkpoint(claim.lease, checkpoint(5), [Metric("top1", "test", 5, 1.0)])
    store.fail(claim.lease, EndReason.CODE, "bug")
    store.retry(claim.run.id, from_scratch=True)
    run_id = claim.run.id
    assert (store.metrics(run_id), store.summaries(run_id), store.checkpoints(run_id)) == ([],) * 3
    assert take(store).circumstances == {}


def reap_after(store: Store, clock: Clock, seconds: float, **options: Any) -> list[Run]:
    store.reap(**options)
    clock.seconds += seconds
    return store.reap(**options)


def test_a_dead_workers_run_is_reaped_after_a_lease_on_both_clocks(
    store: Store, clock: Clock
) -> None:
    submit(store, new("a"))
    claim = take(store)
    assert reap_after(store, clock, 2 * LEASE) == [], "its lease is not over"
    lapse(store, claim.run.id)
    assert store.detail(claim.run.id).run.lease_lapsed
    (found,) = store.reap()
    assert (found.state, found.reason) == (RunState.QUEUED, EndReason.LOST)
    with pytest.raises(LeaseLost):
        store.renew(claim.lease)


def test_a_clock_that_jumps_reaps_nobody_who_renews(store: Store, clock: Clock) -> None:
    submit(store, new("a"))
    claim = take(store)
    for _ in range(5):
        lapse(store, claim.run.id, seconds=3600)  # the database's clock is an hour ahead
        assert reap_after(store, clock, 0.9 * LEASE) == []
        store.renew(claim.lease)
        lapse(store, claim.run.id, seconds=3600)
        assert store.reap() == []


def test_a_worker_that_is_provably_gone_is_not_waited_for_twice(store: Store) -> None:
    submit(store, new("a"))
    claim = take(store)
    assert store.reap(gone=lambda worker: True) == [], "its lease is not over"
    lapse(store, claim.run.id)
    assert store.reap(gone=lambda worker: False) == []
    assert [run.id for run in store.reap(gone=lambda w: w.boot_id == "boot")] == [claim.run.id]


def test_every_change_of_state_leaves_an_event_and_they_form_a_chain(store: Store) -> None:
    (run_id,) = submit(store, new("a"))
    store.fail(take(store).lease, EndReason.INFRA, "disk")
    no_back_off(store)
    store.fail(take(store).lease, EndReason.CODE, "bug")
    store.retry(run_id)
    store.finish(take(store).lease, result())
    moves = [e for e in store.events(run_id) if e.to_state is not None]
    assert [e.kind for e in moves] == (
        "enqueued claimed requeued claimed failed retried claimed succeeded".split()
    )
    assert all(a.to_state == b.from_state for a, b in pairwise(moves))
    assert moves[0].from_state is None
    assert [e.attempt for e in moves if e.kind == "claimed"] == [1, 2, 3]


def test_the_databases_clock_is_near_this_machines(store: Store) -> None:
    assert abs(store.clock_skew()) < timedelta(seconds=5)


def test_workers_are_known_until_they_are_gone(store: Store) -> None:
    store.worker_seen("w1")
    assert [(w.identity.id, w.gone_at) for w in store.workers()] == [("w1", None)]
    store.worker_gone("w1")
    assert store.workers()[0].gone_at is not None
    with pytest.raises(NotFound, match="w9"):
        store.worker_seen("w9")
