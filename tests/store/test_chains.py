"""Laws of long chains of parents and of large submissions."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event

from lsqctl.errors import NotFound, UsageError
from lsqctl.run import EndReason, NewRun, RunState
from lsqctl.store import Store
from lsqctl.store.enqueue import PORTION_SIZE
from tests.conftest import FULL
from tests.store.samples import new, submit, take


def chain(length: int, name: str = "r") -> list[NewRun]:
    """Runs of which each waits for the one before it."""
    return [new(f"{name}{i}", parents=[f"{name}{i - 1}"][:i]) for i in range(length)]


@contextmanager
def little_stack(frames: int) -> Iterator[None]:
    """Let Python's stack hold so many frames more than there are now."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + frames)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def states(store: Store) -> set[RunState]:
    return {run.state for run in store.runs.list()}


def test_a_chain_longer_than_the_stack_is_added_fails_and_is_tried_again(store: Store) -> None:
    with little_stack(160):
        ids = submit(store, *chain(180))
        store.runs.prioritize(ids[-1], priority=7)
        claim = take(store)
        assert claim.run.priority == 7
        store.queue.fail(claim.lease, EndReason.CODE, "wrong")
        assert states(store) == {RunState.FAILED}
        store.runs.retry(ids[-1])
        assert states(store) == {RunState.QUEUED, RunState.WAITING}
        assert store.runs.cancel(ids[0]) is RunState.CANCELLED
        assert states(store) == {RunState.CANCELLED}
    assert store.maintenance.check() == []


def statements_of(store: Store) -> list[str]:
    """A list that grows by each statement that the store sends from now on."""
    statements: list[str] = []
    event.listen(
        store._database.engine, "before_cursor_execute", lambda *call: statements.append(call[2])
    )
    return statements


@pytest.mark.slow
def test_a_chain_ends_and_is_tried_again_in_as_many_statements_however_long_it_is(
    store: Store,
) -> None:
    statements, costs = statements_of(store), set()
    for length in (3, 30, *([300] if FULL else [])):
        first, *_, last = submit(store, *chain(length, f"of{length}-"))
        statements.clear()
        store.runs.cancel(first)
        store.runs.retry(last)
        costs.add(len(statements))
        assert store.runs.counts()[RunState.WAITING] == length - 1
        store.runs.cancel(first)
    assert len(costs) == 1
    assert store.maintenance.check() == []


def test_each_run_of_a_chain_costs_the_same_however_long_it_is(store: Store) -> None:
    statements = statements_of(store)
    costs = []
    for length in (20, 40, 80):
        statements.clear()
        submit(store, *chain(length, f"of{length}-"))
        costs.append(len(statements))
    assert costs[2] - costs[1] == 2 * (costs[1] - costs[0])


def test_a_parent_of_the_same_submission_gets_the_priority_of_its_most_urgent_descendant(
    store: Store,
) -> None:
    urgent = [new("a"), new("b", parents=["a"], priority=1), new("c", parents=["b"], priority=5)]
    ids = submit(store, *urgent, new("d", parents=["b"], priority=3))
    assert [store.runs.detail(run_id).run.priority for run_id in ids] == [5, 5, 5, 3]


def test_a_large_submission_lets_others_write_in_between(store: Store) -> None:
    commits = []
    event.listen(store._database.engine, "commit", lambda _: commits.append(len(commits)))
    submit(store, *(new(f"r{i}") for i in range(2 * PORTION_SIZE + 1)))
    assert len(commits) >= 3
    assert len(store.runs.list(limit=1000)) == 2 * PORTION_SIZE + 1


def test_a_large_submission_that_is_cut_short_leaves_whole_portions_and_again_adds_the_rest(
    store: Store,
) -> None:
    runs = chain(PORTION_SIZE + 20)
    commits = []

    def interrupt(_connection: object) -> None:
        commits.append(len(commits))
        if len(commits) == 3:  # the check and a portion are done
            raise KeyboardInterrupt

    event.listen(store._database.engine, "commit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        submit(store, *runs)
    assert len(store.runs.list(limit=1000)) == PORTION_SIZE
    assert store.maintenance.check() == []
    submit(store, *runs)
    assert len(store.runs.list(limit=1000)) == len(runs)
    assert store.maintenance.check() == []


@pytest.mark.parametrize("wrong", ["parent", "exists"])
def test_a_large_submission_with_one_mistake_adds_nothing(store: Store, wrong: str) -> None:
    submit(store, new("there"))
    runs = [new(f"r{i}") for i in range(PORTION_SIZE + 5)]
    runs.append(new("child", parents=["nowhere"]) if wrong == "parent" else new("there"))
    with pytest.raises(NotFound if wrong == "parent" else UsageError):
        store.queue.enqueue(runs, if_exists="error")
    assert len(store.runs.list(limit=1000)) == 1
