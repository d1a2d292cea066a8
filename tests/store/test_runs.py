"""Laws of lists, references and sweeps."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from lsqctl.errors import NotFound, UsageError
from lsqctl.run import EndReason, EnqueueOutcome, RunState
from lsqctl.store import Store
from lsqctl.store.tables import runs
from tests.store.samples import new, result, submit, take


@pytest.fixture
def named(store: Store) -> Store:
    """Runs `a/x`, `b` and `a/x` with another seed."""
    submit(store, new("a/x"), new("b"), new("a/x", seed=1))
    return store


def test_a_reference_is_an_id_a_prefix_a_name_or_how_long_ago(named: Store) -> None:
    third, second, first = named.runs.list()
    assert named.runs.resolve(first.id) == first
    assert named.runs.resolve(first.id.upper()) == first
    length = next(n for n in range(1, 9) if len({r.id[:n] for r in (first, second, third)}) == 3)
    assert named.runs.resolve(second.id[:length]) == second
    assert named.runs.resolve("a/x") == third
    assert named.runs.resolve("@last") == third
    assert named.runs.resolve("@last~2") == first


def test_a_prefix_of_several_ids_names_five_of_them(store: Store) -> None:
    submit(store, *(new("many", seed=seed) for seed in range(120)))
    letter = max("23456789bcdf", key=lambda c: sum(r.id[0] == c for r in store.runs.list()))
    fits = [run.id for run in store.runs.list() if run.id[0] == letter]
    if len(fits) < 6:
        pytest.skip("120 random ids with fewer than six of one first letter: one in a million")
    with pytest.raises(UsageError) as caught:
        store.runs.resolve(letter)
    assert sum(run_id in str(caught.value) for run_id in fits) == 5
    assert "…" in str(caught.value)


@pytest.mark.parametrize("ref", ["", "%", "_", "@last~3", "@first", "zzzzzzzzz", "A/X"])
def test_an_unknown_reference_is_not_found(named: Store, ref: str) -> None:
    with pytest.raises(NotFound):
        named.runs.resolve(ref)


def test_a_misspelt_name_is_answered_with_the_nearest(named: Store) -> None:
    with pytest.raises(NotFound, match="did you mean `a/x`"):
        named.runs.resolve("a/xx")


def test_lists_are_newest_first_and_narrowed_by_each_argument(store: Store) -> None:
    submit(store, new("a", sweep="s", cell="one"), new("b"), new("a", seed=1))
    claim = take(store)
    assert [run.name for run in store.runs.list()] == ["a", "b", "a"]
    assert [run.seed for run in store.runs.list(name="a")] == [1, 0]
    assert [run.id for run in store.runs.list(states={RunState.RUNNING})] == [claim.run.id]
    assert [run.sweep for run in store.runs.list(sweep="s")] == ["s"]
    assert len(store.runs.list(limit=2)) == 2
    assert store.runs.list(states=[]) == []
    assert [run.seed for run in store.runs.list(recipe_sha256="a")] == [1, 0]
    assert [run.name for run in store.runs.list(name="b")] == ["b"]
    assert sum(store.queue.remaining()) == 3
    assert store.runs.counts() == dict.fromkeys(RunState, 0) | {
        RunState.QUEUED: 2,
        RunState.RUNNING: 1,
    }


def test_a_hash_stands_for_its_succeeded_run_before_a_newer_unfinished_one(store: Store) -> None:
    (first,) = submit(store, new("a"))
    store.queue.finish(take(store).lease, result())
    store.queue.enqueue([new("a")], if_exists="rerun")
    (again,) = store.queue.enqueue([new("a")])
    assert (again.run.id, again.outcome) == (first, EnqueueOutcome.EXISTS)


def test_a_sweep_keeps_its_cells_when_runs_fail_and_adds_none_twice(store: Store) -> None:
    cells = [new(f"c{i}", seed=seed, sweep="s", cell=f"c{i}") for i in (0, 1) for seed in (0, 1)]
    submit(store, *cells)
    store.queue.fail(take(store).lease, EndReason.OOM, "too big")
    submit(store, *cells, new("c2", sweep="s", cell="c2"))
    found = store.sweeps.cells("s")
    assert [(cell.cell, cell.seed) for cell in found] == [
        *(("c0", 0), ("c0", 1), ("c1", 0), ("c1", 1), ("c2", 0)),
    ]
    assert all(cell.run is not None for cell in found)
    assert store.sweeps.names() == ["s"]
    with pytest.raises(NotFound, match="nosuch"):
        store.sweeps.cells("nosuch")


def test_check_finds_runs_that_nobody_owns(store: Store) -> None:
    (run_id,) = submit(store, new("a"))
    assert store.maintenance.check() == []
    change = update(runs).where(runs.c.id == run_id)
    store._database.write(lambda db: db.execute(change.values(state="running")))
    assert any(
        f"run {run_id} is running, but nobody owns it" in one for one in store.maintenance.check()
    )
    store._database.write(lambda db: db.execute(change.values(state="waiting")))
    assert any(
        f"run {run_id} waits" in one and "retry it" in one for one in store.maintenance.check()
    )
