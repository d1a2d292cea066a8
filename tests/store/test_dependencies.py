"""Laws of parents and children."""

from __future__ import annotations

import pytest

from lsqctl.run import EndReason, EnqueueOutcome, RunState
from lsqctl.store import Store
from tests.store.samples import (
    new,
    result,
    submit,
    take,
)


def state(store: Store, run_id: str) -> RunState:
    return store.runs.detail(run_id).run.state


def test_a_child_waits_until_all_its_parents_have_succeeded(store: Store) -> None:
    ids = submit(store, new("p"), new("q"), new("child", parents=["p", "q"]))
    first, second = take(store), take(store)
    assert store.queue.claim("w1") is None
    store.queue.finish(first.lease, result())
    assert state(store, ids[2]) is RunState.WAITING
    store.queue.finish(second.lease, result())
    assert state(store, ids[2]) is RunState.QUEUED
    (late,) = store.queue.enqueue([new("late", parents=["p", "q"])])
    assert late.outcome is EnqueueOutcome.QUEUED


@pytest.mark.parametrize("end", [RunState.FAILED, RunState.CANCELLED])
def test_children_end_as_their_parent_did_name_the_cause_and_wait_again_with_its_retry(
    store: Store, end: RunState
) -> None:
    chain = [new("p"), new("child", parents=["p"]), new("grandchild", parents=["child"])]
    parent, child, grandchild = submit(store, *chain)
    if end is RunState.FAILED:
        store.queue.fail(take(store).lease, EndReason.DIVERGED, "NaN")
    else:
        store.runs.cancel(parent)
    verb = {RunState.FAILED: "failed", RunState.CANCELLED: "was cancelled"}[end]
    for run_id, message in (
        (child, f"its parent p ({parent}) {verb}"),
        (grandchild, f"p ({parent}) {verb}, and its parent child ({child}) with it"),
    ):
        run = store.runs.detail(run_id).run
        assert (run.state, run.reason, run.message) == (end, EndReason.PARENT, message)
        assert store.runs.events(run_id)[-1].detail == message
    assert store.runs.retry(parent) is RunState.QUEUED
    assert state(store, child) is RunState.WAITING
    assert state(store, grandchild) is RunState.WAITING
    assert store.maintenance.check() == []


def test_putting_a_child_back_puts_its_dead_parents_back_too(store: Store) -> None:
    ids = submit(store, new("p"), new("q"), new("child", parents=["p", "q"]))
    store.runs.cancel(ids[0])
    store.runs.cancel(ids[1])
    assert store.runs.retry(ids[0]) is RunState.QUEUED
    assert state(store, ids[2]) is RunState.CANCELLED  # q is still dead
    assert store.runs.retry(ids[2]) is RunState.WAITING
    assert state(store, ids[1]) is RunState.QUEUED
    (other,) = store.queue.enqueue([new("other", parents=["p"])])
    assert other.outcome is EnqueueOutcome.WAITING


def test_submitting_a_child_of_a_dead_parent_puts_the_parent_back(store: Store) -> None:
    (parent,) = submit(store, new("p"))
    store.runs.cancel(parent)
    (child,) = store.queue.enqueue([new("child", parents=["p"])])
    assert child.outcome is EnqueueOutcome.WAITING
    assert state(store, parent) is RunState.QUEUED
