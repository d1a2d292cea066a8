"""Laws of the queue, on SQLite and on PostgreSQL."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lsqctl.errors import IllegalTransition, LeaseLost, NotFound, StoreError, UsageError
from lsqctl.events import Metric
from lsqctl.run import ID_ALPHABET, EndReason, EnqueueOutcome, IfExists, Lease, RunState
from lsqctl.services.run_control import retry_run
from lsqctl.settings import Settings
from lsqctl.store import Store, open_store
from lsqctl.training.checkpoint_files import checkpoint_dir
from tests.store.samples import (
    checkpoint,
    identity,
    new,
    no_back_off,
    result,
    submit,
    take,
    zombie,
)


def test_runs_are_claimed_by_priority_then_age_and_never_while_held(store: Store) -> None:
    submit(store, new("a"), new("b"), new("held", priority=9), new("c", priority=5))
    store.runs.hold(store.runs.resolve("held").id)
    assert [take(store).run.name for _ in range(3)] == ["c", "a", "b"]
    assert store.queue.claim("w1") is None
    store.runs.hold(store.runs.resolve("held").id, held=False)
    assert take(store).run.name == "held"


def test_a_claim_carries_all_that_the_worker_needs(store: Store) -> None:
    submit(store, new("parent"), new("child", parents=["parent"]))
    parent = take(store)
    store.queue.record_environment(
        parent.lease, {"device": "cpu", "threads": 2, "compile": False, "torch": "2"}
    )
    store.queue.finish(parent.lease, result())
    child = take(store)
    assert child.run.state is RunState.RUNNING
    assert child.provenance == {"code_commit": "abc", "code_dirty": False}
    assert child.pinned_environment == {}
    detail = store.runs.detail(child.run.id)
    assert detail.recipe["model"] == {"name": "resnet8"}
    assert detail.parents == {"role0": parent.run.id}


def test_the_first_attempts_device_threads_and_compile_hold_for_the_later_ones(
    store: Store,
) -> None:
    submit(store, new("a"))
    first = take(store)
    store.queue.record_environment(
        first.lease, {"device": "cpu", "threads": 2, "compile": False, "torch": "2"}
    )
    store.queue.release(first.lease)
    second = take(store)
    assert second.pinned_environment == {"device": "cpu", "threads": 2, "compile": False}
    store.queue.record_environment(second.lease, {"device": "cuda", "threads": 4})
    store.queue.release(second.lease)
    assert take(store).pinned_environment == second.pinned_environment
    tries = store.runs.detail(first.run.id).attempts
    assert [dict(each.environment)["device"] for each in tries] == ["cpu", "cuda", "cpu"]


def test_an_unregistered_worker_gets_nothing(store: Store) -> None:
    submit(store, new("a"))
    with pytest.raises(NotFound, match="w9"):
        store.queue.claim("w9")
    assert store.runs.counts()[RunState.QUEUED] == 1


WRITES: dict[str, Any] = {
    "renew": lambda s, lease: s.queue.renew(lease),
    "record_environment": lambda s, lease: s.queue.record_environment(lease, {"device": "tpu"}),
    "log_metrics": lambda s, lease: s.metrics.log(lease, [Metric("top1", "test", 7, 1.0)]),
    "record_checkpoint": lambda s, lease: s.checkpoints.record(
        lease, checkpoint(7), [Metric("top1", "test", 7, 1.0)], ["/runs/ckpt-5"]
    ),
    "resume_at": lambda s, lease: s.metrics.resume_at(lease, None),
    "start_at": lambda s, lease: s.metrics.start_at(lease, 0),
    "log_event": lambda s, lease: s.queue.log_event(lease, "zombie"),
    "relocate": lambda s, lease: s.checkpoints.relocate(lease, Path("/elsewhere")),
    "finish": lambda s, lease: s.queue.finish(lease, result()),
    "fail": lambda s, lease: s.queue.fail(lease, EndReason.CODE, "zombie"),
    "release": lambda s, lease: s.queue.release(lease),
}


def everything(store: Store, run_id: str) -> tuple[Any, ...]:
    parts = (
        store.runs.detail,
        store.metrics.points,
        store.metrics.summaries,
        store.checkpoints.list,
        store.results.evaluations,
    )
    return *(part(run_id) for part in parts), store.runs.events(run_id)


@pytest.mark.parametrize("write", WRITES)
def test_a_zombies_write_changes_nothing(store: Store, write: str) -> None:
    submit(store, new("a"))
    dead = take(store).lease
    store.queue.release(dead)
    alive = take(store).lease
    store.metrics.log(alive, [Metric("top1", "test", 5, 2.0)])
    store.checkpoints.record(alive, checkpoint(5))
    before = everything(store, alive.run_id)
    for stale in (dead, zombie(alive), Lease(alive.run_id, 1, alive.fence)):
        with pytest.raises(LeaseLost, match=alive.run_id):
            WRITES[write](store, stale)
    assert everything(store, alive.run_id) == before
    store.queue.finish(alive, result())
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
    (skipped,) = store.queue.enqueue([new("a")])
    assert (skipped.run.id, skipped.outcome) == (first, EnqueueOutcome.EXISTS)
    with pytest.raises(UsageError, match=first):
        store.queue.enqueue([new("a")], if_exists="error")
    (again,) = store.queue.enqueue([new("a")], if_exists="rerun")
    assert again.run.id != first
    assert again.outcome is EnqueueOutcome.QUEUED


@pytest.mark.parametrize("if_exists", ["skip", "rerun", "error"])
def test_a_submission_is_all_or_nothing(store: Store, if_exists: IfExists) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        store.queue.enqueue(
            [new("a", sweep="s"), new("nowhere", parents=["gone"])], if_exists=if_exists
        )
    assert store.runs.list() == []
    assert store.sweeps.names() == []


def test_a_failed_run_is_put_back_when_submitted_again(store: Store) -> None:
    submit(store, new("a"))
    failed = take(store)
    store.queue.fail(failed.lease, EndReason.OOM, "too big")
    (again,) = store.queue.enqueue([new("a")])
    assert (again.run.id, again.outcome) == (failed.run.id, EnqueueOutcome.RETRIED)
    assert again.run.state is RunState.QUEUED
    assert again.run.reason is None
    assert take(store).lease.attempt == 2


def test_only_the_legal_moves_are_made(store: Store) -> None:
    (run_id,) = submit(store, new("a"))
    with pytest.raises(IllegalTransition, match="queued"):
        store.runs.retry(run_id)
    store.queue.finish(take(store).lease, result())
    with pytest.raises(IllegalTransition, match="succeeded"):
        store.runs.cancel(run_id)
    with pytest.raises(IllegalTransition, match="succeeded"):
        store.runs.retry(run_id)
    with pytest.raises(NotFound, match="nosuchid"):
        store.runs.cancel("nosuchid")


def test_a_retry_from_scratch_forgets_metrics_and_checkpoints(store: Store) -> None:
    submit(store, new("a"))
    claim = take(store)
    store.queue.record_environment(claim.lease, {"device": "cuda", "threads": 2})
    store.checkpoints.record(claim.lease, checkpoint(5), [Metric("top1", "test", 5, 1.0)])
    store.queue.fail(claim.lease, EndReason.CODE, "bug")
    store.runs.retry(claim.run.id, from_scratch=True)
    run_id = claim.run.id
    assert (
        store.metrics.points(run_id),
        store.metrics.summaries(run_id),
        store.checkpoints.list(run_id),
    ) == ([],) * 3
    assert take(store).pinned_environment == {}


def test_a_retry_from_scratch_that_the_database_refuses_leaves_the_files(
    sqlite_url: str, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path / "home", db_url=sqlite_url, data_dir=tmp_path)
    with open_store(sqlite_url, busy_seconds=0.01) as store:
        (run_id,) = submit(store, new("a"))
        store.runs.cancel(run_id)
        folder = checkpoint_dir(settings.run_dir(run_id), 5)
        folder.mkdir(parents=True)
        holder = sqlite3.connect(tmp_path / "home" / "lsqctl.db")
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            retry_run(store, settings, run_id, from_scratch=True)
        assert folder.exists()
        holder.close()
        retry_run(store, settings, run_id, from_scratch=True)
        assert not folder.exists()
        folder.mkdir(parents=True)
        with pytest.raises(IllegalTransition):
            retry_run(store, settings, run_id, from_scratch=True)
        assert folder.exists()


def test_every_change_of_state_leaves_an_event_and_they_form_a_chain(store: Store) -> None:
    (run_id,) = submit(store, new("a"))
    store.queue.fail(take(store).lease, EndReason.INFRA, "disk")
    no_back_off(store)
    store.queue.fail(take(store).lease, EndReason.CODE, "bug")
    store.runs.retry(run_id)
    store.queue.finish(take(store).lease, result())
    moves = [e for e in store.runs.events(run_id) if e.to_state is not None]
    assert [e.kind for e in moves] == (
        "enqueued claimed requeued claimed failed retried claimed succeeded".split()
    )
    assert all(a.to_state == b.from_state for a, b in pairwise(moves))
    assert moves[0].from_state is None
    assert [e.attempt for e in moves if e.kind == "claimed"] == [1, 2, 3]


def test_the_databases_clock_is_near_this_machines(store: Store) -> None:
    assert abs(store.maintenance.clock_skew()) < timedelta(seconds=5)


def test_workers_are_known_until_they_are_gone(store: Store) -> None:
    store.workers.heartbeat("w1")
    assert [(w.identity.id, w.stopped_at) for w in store.workers.list()] == [("w1", None)]
    store.workers.deregister("w1")
    assert store.workers.list()[0].stopped_at is not None
    with pytest.raises(NotFound, match="w9"):
        store.workers.heartbeat("w9")


def test_a_run_that_reserves_gpus_is_waited_for_and_passed_over_where_it_never_fits(
    store: Store,
) -> None:
    big, small = submit(store, new("big", gpus=3), new("small"))
    assert store.queue.claim("w1", gpus=4, free_gpus=2) is None, "small would starve big"
    fits = store.queue.claim("w1", gpus=4, free_gpus=3)
    assert fits is not None
    assert (fits.run.id, fits.run.gpus) == (big, 3)
    rest = store.queue.claim("w1", gpus=2, free_gpus=1)
    assert rest is not None
    assert rest.run.id == small


def test_a_worker_passes_over_a_run_that_reserves_more_gpus_than_it_has(store: Store) -> None:
    _, small = submit(store, new("big", gpus=3), new("small"))
    claim = store.queue.claim("w1", gpus=2, free_gpus=2)
    assert claim is not None
    assert claim.run.id == small
    assert store.queue.claim("w1", gpus=2, free_gpus=2) is None


def test_a_worker_for_runs_of_one_size_takes_no_other(store: Store) -> None:
    small, big = submit(store, new("small"), new("big", gpus=2))
    assert store.queue.claim("w1", gpus=4, free_gpus=4, only_gpus=3) is None
    claim = store.queue.claim("w1", gpus=4, free_gpus=4, only_gpus=2)
    assert claim is not None
    assert claim.run.id == big
    assert store.queue.claim("w1", gpus=2, free_gpus=2, only_gpus=2) is None
    rest = store.queue.claim("w1", only_gpus=1)
    assert rest is not None
    assert rest.run.id == small


def test_the_demand_counts_what_nobody_owns_by_size_the_most_urgent_first(store: Store) -> None:
    submit(store, new("a"), new("b", seed=1), new("held", held=True))
    submit(store, new("big", gpus=4, priority=5))
    assert store.queue.demand("slurm").ready == ((4, 1), (1, 2))
    take(store)
    assert store.queue.demand("slurm").ready == ((4, 1), (1, 1))


def test_the_demand_tells_which_pilots_work_idle_or_have_left(store: Store) -> None:
    submit(store, new("a"))
    for name in ("slurm-1.0-aa", "slurm-2.0-bb", "slurm-3.0-cc", "slurmish-4.0-dd"):
        store.workers.register(replace(identity(name), name=name))
    store.queue.claim("slurm-2.0-bb")
    store.workers.deregister("slurm-3.0-cc")
    found = {one.job_id: one for one in store.queue.demand("slurm").workers}
    assert sorted(found) == ["1", "2", "3"]
    assert [found[key].running_runs for key in "123"] == [0, 1, 0]
    assert [found[key].silent for key in "123"] == [False, False, True]
