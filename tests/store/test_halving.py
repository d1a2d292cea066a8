"""Laws of successive halving: who goes on from a rung follows from what was measured there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest

from lsqctl.events import Metric
from lsqctl.run import Claim, EndReason, EnqueueOutcome, NewRun, RunState
from lsqctl.store import Store, open_store
from lsqctl.store.sweeps import ResumeOptions
from tests.store.samples import Clock, identity, lapse, new, no_back_off, result, submit

RUNGS = (1, 3)
PLAN = {"sweep": "s", "metric": "top1", "factor": 3, "rungs": list(RUNGS)}
TOP1 = {"a": 10.0, "b": 30.0, "c": 20.0, "d": 30.0}  # at every epoch


def cell(name: str, **changes: object) -> NewRun:
    wanted = new(name, sweep="s", cell=name, epochs=9)
    plan = PLAN | changes
    object.__setattr__(wanted, "provenance", {**wanted.provenance, "halving": plan})
    return wanted


def submit_cells(store: Store, names: Sequence[str] = "abcd", **changes: object) -> dict[str, str]:
    return dict(zip(names, submit(store, *(cell(name, **changes) for name in names)), strict=True))


def claimed(store: Store, count: int, worker: str = "w1") -> list[Claim]:
    claims = [store.queue.claim(worker) for _ in range(count)]
    return [claim for claim in claims if claim is not None]


def measure(store: Store, claim: Claim, epochs: int, top1: float | None = None) -> None:
    """Log an evaluation for each epoch up to one, as training would."""
    value = TOP1[claim.run.name] if top1 is None else top1
    points = [Metric("top1", "test", 10 * (epoch + 1), value) for epoch in range(epochs)]
    store.metrics.log(claim.lease, [*points, Metric("top1", "train", 5, 99.0)])


def come(store: Store, claim: Claim, top1: float | None = None) -> RunState:
    """Train up to the next rung, and pause there."""
    epoch = store.rungs.next_rung(claim.run.id)
    assert epoch is not None
    measure(store, claim, epoch, top1)
    return store.rungs.pause(claim.lease)


def states(store: Store) -> dict[str, str]:
    return {one.cell: one.status for one in store.sweeps.cells("s")}


def test_cells_wait_for_each_other_then_the_best_go_on_and_the_others_say_where_they_fell_out(
    store: Store,
) -> None:
    ids = submit_cells(store)
    for claim in claimed(store, 4):
        assert store.rungs.next_rung(claim.run.id) == 1
        come(store, claim)
    # two of four, rounded up; of the equals the first by name
    assert states(store) == {"a": "stopped", "b": "queued", "c": "stopped", "d": "queued"}
    fallen = store.runs.detail(ids["a"]).run
    assert (fallen.state, fallen.reason) == (RunState.CANCELLED, EndReason.STOPPED)
    assert fallen.message == (
        "stopped at rung 1 of 2, after epoch 1 of 9: top1 10 is number 4 of 4, and 2 cells went on"
    )
    for claim in claimed(store, 2):
        come(store, claim)
    assert states(store)["b"] == "queued"
    assert states(store)["d"] == "stopped"
    (last,) = claimed(store, 1)
    assert store.rungs.next_rung(last.run.id) is None
    measure(store, last, 9)
    store.queue.finish(last.lease, result())
    assert store.maintenance.check() == []
    assert store.queue.remaining() == (0, 0, 0)


def test_no_order_of_arrival_changes_who_falls_out(sqlite_url: str) -> None:
    outcomes = set()
    for number, order in enumerate(list(permutations(range(4)))[::3]):
        url = sqlite_url.replace("lsqctl.db", f"{number}.db")
        with open_store(url, clock=Clock()) as store:
            store.workers.register(identity("w1"))
            submit_cells(store)
            claims = claimed(store, 4)
            for index in order[:-1]:
                assert come(store, claims[index]) is RunState.WAITING
            come(store, claims[order[-1]])
            outcomes.add(tuple(sorted(states(store).items())))
    assert outcomes == {(("a", "stopped"), ("b", "queued"), ("c", "stopped"), ("d", "queued"))}


def test_a_worker_lost_at_a_rung_holds_the_others_up_until_its_cell_has_come_again(
    store: Store, clock: Clock
) -> None:
    submit_cells(store, "abc")
    first, second, third = claimed(store, 3)
    come(store, first)
    come(store, second)
    measure(store, third, 1)
    lapse(store, third.run.id)
    store.queue.reap(is_dead=lambda _: True)
    store.rungs.decide_due()
    assert states(store) == {"a": "waiting", "b": "waiting", "c": "queued"}
    clock.seconds += 1_000
    no_back_off(store)
    (again,) = claimed(store, 1)
    assert come(store, again) is RunState.CANCELLED
    assert states(store) == {"a": "stopped", "b": "queued", "c": "stopped"}


@pytest.mark.parametrize("end", ["fail", "cancel", "remove"])
def test_a_cell_that_never_comes_is_not_waited_for(store: Store, end: str) -> None:
    ids = submit_cells(store, "abc")
    first, second, third = claimed(store, 3)
    come(store, first)
    come(store, second)
    if end == "fail":
        store.queue.fail(third.lease, EndReason.DIVERGED, "NaN")
    else:
        store.queue.release(third.lease)
        store.runs.cancel(ids["c"])
        if end == "remove":
            store.trash.remove([ids["c"]])
        store.rungs.decide_due()
    found = states(store)
    assert (found["a"], found["b"]) == ("stopped", "queued")


def test_a_small_loss_is_better_and_nan_comes_last(store: Store) -> None:
    submit_cells(store, "abc", metric="loss")
    for claim, loss in zip(claimed(store, 3), (float("nan"), 0.5, 0.7), strict=True):
        store.metrics.log(claim.lease, [Metric("loss", "test", 10, loss)])
        store.rungs.pause(claim.lease)
    assert states(store) == {"a": "stopped", "b": "queued", "c": "stopped"}


def test_what_fell_out_is_left_alone_unless_a_person_retries_it_and_is_then_trained_to_its_end(
    store: Store,
) -> None:
    ids = submit_cells(store, "abc")
    for claim in claimed(store, 3):
        come(store, claim)
    again = {one.run.name: one.outcome for one in store.queue.enqueue([cell(n) for n in "abc"])}
    assert set(again.values()) == {EnqueueOutcome.EXISTS}
    assert store.sweeps.resume("s", ResumeOptions()) == []
    store.runs.retry(ids["a"])
    assert store.rungs.next_rung(ids["a"]) is None
    assert store.rungs.next_rung(ids["b"]) == 3


def test_a_held_cell_keeps_the_others_at_their_rung_and_no_worker_waits_for_them(
    store: Store,
) -> None:
    ids = submit_cells(store, "abc")
    store.runs.hold(ids["c"])
    for claim in claimed(store, 3):
        come(store, claim)
    assert states(store) == {"a": "waiting", "b": "waiting", "c": "held"}
    assert store.queue.remaining() == (0, 1, 2)
    store.runs.hold(ids["c"], held=False)
    assert store.queue.remaining().runnable == 3


def test_a_run_that_was_there_before_the_sweep_counts_by_what_it_measured(store: Store) -> None:
    submit(store, new("b", epochs=9))
    (claim,) = claimed(store, 1)
    measure(store, claim, 9)
    store.queue.finish(claim.lease, result())
    submit_cells(store, "ab")
    (other,) = claimed(store, 1)
    come(store, other)
    assert states(store) == {"a": "stopped", "b": "succeeded"}


def test_a_sweep_that_is_submitted_again_and_halved_otherwise_keeps_nobody_waiting(
    store: Store,
) -> None:
    submit_cells(store, "ab")
    first, second = claimed(store, 2)
    come(store, first)
    submit_cells(store, "cd", rungs=[2], factor=2)
    come(store, second)
    while claims := claimed(store, 1):
        if store.rungs.next_rung(claims[0].run.id) is None:
            measure(store, claims[0], 9)
            store.queue.finish(claims[0].lease, result())
        else:
            come(store, claims[0])
    assert set(states(store).values()) == {"succeeded", "stopped"}
