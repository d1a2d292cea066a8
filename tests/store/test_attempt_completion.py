"""Laws of how attempts end: failed, tried again, given back, cancelled, found dead."""

from __future__ import annotations

from typing import Any

import pytest

from lsqctl.errors import LeaseLost, StoreError
from lsqctl.run import MAX_CONSECUTIVE_FAILURES, EndReason, Run, RunState
from lsqctl.store import Store
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
)


def state(store: Store, run_id: str) -> RunState:
    return store.runs.detail(run_id).run.state


@pytest.mark.parametrize("reason", [EndReason.WORKER_LOST, EndReason.INFRA])
def test_a_fault_of_the_machine_is_tried_three_times_with_back_off(
    store: Store, reason: EndReason
) -> None:
    submit(store, new("a"))
    for attempt in range(1, MAX_CONSECUTIVE_FAILURES):
        claim = take(store)
        assert claim.lease.attempt == attempt
        assert store.queue.fail(claim.lease, reason, "disk") is RunState.QUEUED
        assert store.queue.claim("w1") is None, "the back-off is not over"
        no_back_off(store)
    assert store.queue.fail(take(store).lease, reason, "disk") is RunState.FAILED


def test_an_attempt_that_moved_the_checkpoint_forward_does_not_count(store: Store) -> None:
    submit(store, new("a"))
    for attempt in range(1, 2 * MAX_CONSECUTIVE_FAILURES):
        claim = take(store)
        store.checkpoints.record(claim.lease, checkpoint(attempt))
        assert store.queue.fail(claim.lease, EndReason.INFRA, "disk") is RunState.QUEUED
        no_back_off(store)
    for _ in range(MAX_CONSECUTIVE_FAILURES - 1):  # the same step again is no progress
        claim = take(store)
        store.checkpoints.record(claim.lease, checkpoint(1))
        assert store.queue.fail(claim.lease, EndReason.INFRA, "disk") is RunState.QUEUED
        no_back_off(store)
    assert store.queue.fail(take(store).lease, EndReason.INFRA, "disk") is RunState.FAILED


@pytest.mark.parametrize(
    "reason",
    [EndReason.OOM, EndReason.DIVERGED, EndReason.DATA, EndReason.RECIPE, EndReason.CODE],
)
def test_a_fault_of_the_recipe_is_not_tried_again(store: Store, reason: EndReason) -> None:
    submit(store, new("a"))
    claim = take(store)
    assert store.queue.fail(claim.lease, reason, "why") is RunState.FAILED
    run = store.runs.detail(claim.run.id).run
    assert (run.reason, run.message) == (reason, "why")


def test_preemption_spends_none_of_the_tries_that_faults_have(store: Store) -> None:
    submit(store, new("a"))
    for _ in range(MAX_CONSECUTIVE_FAILURES - 1):
        assert store.queue.fail(take(store).lease, EndReason.INFRA, "disk") is RunState.QUEUED
        no_back_off(store)
        for _ in range(MAX_CONSECUTIVE_FAILURES):
            store.queue.release(take(store).lease)
    assert store.queue.fail(take(store).lease, EndReason.INFRA, "disk") is RunState.FAILED


def test_a_preempted_run_is_queued_at_once_and_spends_no_attempt(store: Store) -> None:
    submit(store, new("a"))
    for _ in range(2 * MAX_CONSECUTIVE_FAILURES):
        store.queue.release(take(store).lease)
    assert store.queue.fail(take(store).lease, EndReason.PREEMPTED, "") is RunState.QUEUED
    store.queue.finish(take(store).lease, result())


def test_a_renewal_brings_the_cancel_request_and_the_run_ends_cancelled(store: Store) -> None:
    submit(store, new("a"))
    claim = take(store)
    assert not store.queue.renew(claim.lease).cancel_requested
    assert store.runs.cancel(claim.run.id) is RunState.RUNNING
    assert store.queue.renew(claim.lease).cancel_requested
    assert store.queue.fail(claim.lease, EndReason.CANCELLED, "asked") is RunState.CANCELLED
    store.runs.retry(claim.run.id)
    assert not store.queue.renew(take(store).lease).cancel_requested


@pytest.mark.parametrize("end", ["release", "infra"])
def test_a_run_that_is_to_be_cancelled_is_not_queued_again(store: Store, end: str) -> None:
    submit(store, new("a"))
    claim = take(store)
    store.runs.cancel(claim.run.id)
    if end == "release":
        store.queue.release(claim.lease)
    else:
        store.queue.fail(claim.lease, EndReason.INFRA, "disk")
    assert state(store, claim.run.id) is RunState.CANCELLED


def reap_after(store: Store, clock: Clock, seconds: float, **options: Any) -> list[Run]:
    store.queue.reap(**options)
    clock.seconds += seconds
    return store.queue.reap(**options)


def test_a_dead_workers_run_is_reaped_after_a_lease_on_both_clocks(
    store: Store, clock: Clock
) -> None:
    submit(store, new("a"))
    claim = take(store)
    assert reap_after(store, clock, 2 * LEASE) == [], "its lease is not over"
    lapse(store, claim.run.id)
    assert store.runs.detail(claim.run.id).run.lease_expired
    (found,) = store.queue.reap()
    assert (found.state, found.reason) == (RunState.QUEUED, EndReason.WORKER_LOST)
    with pytest.raises(LeaseLost):
        store.queue.renew(claim.lease)


def test_runs_that_were_taken_back_before_the_database_went_away_are_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = submit(store, new("a"), new("b"), new("c"))
    for run_id in lost:
        take(store)
        lapse(store, run_id)
    reached: list[str] = []

    def away_at_the_second(name: str) -> None:
        reached.append(name)
        if reached.count("reap.before-expire") == 2:
            raise StoreError("the database is away")

    monkeypatch.setattr("lsqctl.store.attempt_completion.failpoint", away_at_the_second)
    told = [[run.id for run in store.queue.reap(is_dead=lambda _: True)] for _ in range(2)]
    assert [len(ids) for ids in told] == [1, 2]
    assert sorted([*told[0], *told[1]]) == sorted(lost)


def test_a_clock_that_jumps_reaps_nobody_who_renews(store: Store, clock: Clock) -> None:
    submit(store, new("a"))
    claim = take(store)
    for _ in range(5):
        lapse(store, claim.run.id, seconds=3600)  # the database's clock is an hour ahead
        assert reap_after(store, clock, 0.9 * LEASE) == []
        store.queue.renew(claim.lease)
        lapse(store, claim.run.id, seconds=3600)
        assert store.queue.reap() == []


def test_a_worker_that_is_provably_gone_is_not_waited_for_twice(store: Store) -> None:
    submit(store, new("a"))
    claim = take(store)
    assert store.queue.reap(is_dead=lambda worker: True) == [], "its lease is not over"
    lapse(store, claim.run.id)
    assert store.queue.reap(is_dead=lambda worker: False) == []
    assert [run.id for run in store.queue.reap(is_dead=lambda w: w.boot_id == "boot")] == [
        claim.run.id
    ]
