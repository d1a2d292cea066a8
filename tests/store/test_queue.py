"""Laws of the queue, on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lsqctl.errors import IllegalTransition, LeaseLost, NotFound, UsageError
from lsqctl.events import Metric, Progress
from lsqctl.run import EndReason, EnqueueOutcome, IfExists, Lease, RunState
from lsqctl.store import Store
from lsqctl.store.enqueue import ID_ALPHABET
from tests.store.samples import (
    checkpoint,
    new,
    no_back_off,
    result,
    submit,
    take,
    zombie,
)


def test_runs_are_claimed_by_priority_then_age_and_never_while_held(store: Store) -> None:
    submit(store, new("a"), new("b"), new("held", priority=9), new("c", priority=5))
    store.hold(store.resolve("held").id)
    assert [take(store).run.name for _ in range(3)] == ["c", "a", "b"]
    assert store.claim("w1") is None
    store.hold(store.resolve("held").id, held=False)
    assert take(store).run.name == "held"


def test_a_claim_carries_all_that_the_worker_needs(store: Store) -> None:
    submit(store, new("parent"), new("child", parents=["parent"]))
    parent = take(store)
    store.record_environment(
        parent.lease, {"device": "cpu", "threads": 2, "compile": False, "torch": "2"}
    )
    store.finish(parent.lease, result())
    child = take(store)
    assert child.run.state is RunState.RUNNING
    assert child.recipe["model"] == {"name": "resnet8"}
    assert child.provenance == {"code_commit": "abc", "code_dirty": False}
    assert child.parents == {"role0": parent.run.id}
    assert child.pinned_environment == {}


def test_the_first_attempts_device_threads_and_compile_hold_for_the_later_ones(
    store: Store,
) -> None:
    submit(store, new("a"))
    first = take(store)
    store.record_environment(
        first.lease, {"device": "cpu", "threads": 2, "compile": False, "torch": "2"}
    )
    store.release(first.lease)
    second = take(store)
    assert second.pinned_environment == {"device": "cpu", "threads": 2, "compile": False}
    store.record_environment(second.lease, {"device": "cuda", "threads": 4})
    store.release(second.lease)
    assert take(store).pinned_environment == second.pinned_environment
    tries = store.detail(first.run.id).attempts
    assert [dict(each.environment)["device"] for each in tries] == ["cpu", "cuda", "cpu"]


def test_an_unregistered_worker_gets_nothing(store: Store) -> None:
    submit(store, new("a"))
    with pytest.raises(NotFound, match="w9"):
        store.claim("w9")
    assert store.counts()[RunState.QUEUED] == 1


WRITES: dict[str, Any] = {
    "renew": lambda s, lease: s.renew(lease),
    "record_environment": lambda s, lease: s.settle(lease, {"device": "tpu"}),
    "progress": lambda s, lease: s.progress(lease, Progress(9, 9, 9, 9)),
    "log_metrics": lambda s, lease: s.log_metrics(lease, [Metric("top1", "test", 7, 1.0)]),
    "record_checkpoint": lambda s, lease: s.record_checkpoint(
        lease, checkpoint(7), [Metric("top1", "test", 7, 1.0)], ["/runs/ckpt-5"]
    ),
    "resume_at": lambda s, lease: s.resume_at(lease, None),
    "note": lambda s, lease: s.note(lease, "zombie"),
    "relocate": lambda s, lease: s.repoint(lease, Path("/elsewhere")),
    "finish": lambda s, lease: s.finish(lease, result()),
    "fail": lambda s, lease: s.fail(lease, EndReason.CODE, "zombie"),
    "release": lambda s, lease: s.release(lease),
}


def everything(store: Store, run_id: str) -> tuple[Any, ...]:
    parts = store.detail, store.metrics, store.summaries, store.checkpoints, store.evaluations
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
    assert set(run_id) <= set(ID_ALPHABET)
    assert not set(ID_ALPHABET) & set("aeiouyl01")


def test_the_same_run_is_skipped_refused_or_added_as_asked(store: Store) -> None:
    (first,) = submit(store, new("a"))
    (skipped,) = store.enqueue([new("a")])
    assert (skipped.run.id, skipped.outcome) == (first, EnqueueOutcome.EXISTS)
    with pytest.raises(UsageError, match=first):
        store.enqueue([new("a")], if_exists="error")
    (again,) = store.enqueue([new("a")], if_exists="rerun")
    assert again.run.id != first
    assert again.outcome is EnqueueOutcome.QUEUED


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
    assert (again.run.id, again.outcome) == (failed.run.id, EnqueueOutcome.RETRIED)
    assert again.run.state is RunState.QUEUED
    assert again.run.reason is None
    assert take(store).lease.attempt == 2


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
    store.record_environment(claim.lease, {"device": "cuda", "threads": 2})
    store.record_checkpoint(claim.lease, checkpoint(5), [Metric("top1", "test", 5, 1.0)])
    store.fail(claim.lease, EndReason.CODE, "bug")
    store.retry(claim.run.id, from_scratch=True)
    run_id = claim.run.id
    assert (store.metrics(run_id), store.summaries(run_id), store.checkpoints(run_id)) == ([],) * 3
    assert take(store).pinned_environment == {}


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
    store.heartbeat("w1")
    assert [(w.identity.id, w.stopped_at) for w in store.workers()] == [("w1", None)]
    store.deregister("w1")
    assert store.workers()[0].stopped_at is not None
    with pytest.raises(NotFound, match="w9"):
        store.heartbeat("w9")


def test_a_run_that_reserves_gpus_is_waited_for_and_passed_over_where_it_never_fits(
    store: Store,
) -> None:
    big, small = submit(store, new("big", gpus=3), new("small"))
    assert store.claim("w1", gpus=4, free_gpus=2) is None, "small would starve big"
    fits = store.claim("w1", gpus=4, free_gpus=3)
    assert fits is not None
    assert (fits.run.id, fits.run.gpus) == (big, 3)
    rest = store.claim("w1", gpus=2, free_gpus=1)
    assert rest is not None
    assert rest.run.id == small


def test_a_worker_passes_over_a_run_that_reserves_more_gpus_than_it_has(store: Store) -> None:
    _, small = submit(store, new("big", gpus=3), new("small"))
    claim = store.claim("w1", gpus=2, free_gpus=2)
    assert claim is not None
    assert claim.run.id == small
    assert store.claim("w1", gpus=2, free_gpus=2) is None
