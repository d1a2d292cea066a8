"""A history that happened passes; one that cannot have happened is found, whatever is wrong."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lsqctl.events import Metric
from lsqctl.run import EndReason, RunState
from lsqctl.store import Store, open_store
from lsqctl.store.audit import History, MeasurementSpan, violations
from lsqctl.store.maintenance import load_histories
from lsqctl.store.tables import attempts, events, metric_points, results, runs
from tests.conftest import examples
from tests.store.samples import (
    checkpoint,
    identity,
    lapse,
    new,
    no_back_off,
    result,
    submit,
    take,
)

AGAIN = [EndReason.WORKER_LOST, EndReason.INFRA, EndReason.PREEMPTED]
LAST = [EndReason.COMPLETED, EndReason.OOM, EndReason.CANCELLED, None]  # None: still at work
again = st.lists(st.tuples(st.sampled_from(AGAIN), st.booleans()), max_size=4)


def tell(store: Store, story: list[tuple[EndReason, bool]], last: EndReason | None) -> str:
    """Let a run go through attempts that end so, each saving or not, and return its id."""
    (run_id,) = submit(store, new("a"))
    step, saved = 0, None
    for reason, saves in [*story, (last, True)]:
        no_back_off(store)
        lease = take(store).lease
        store.metrics.resume_at(lease, saved)
        step = (saved or 0) + 3
        store.metrics.log(lease, [Metric("loss", "train", step - 1, 0.5)])
        if saves:
            store.checkpoints.record(lease, checkpoint(step), [Metric("top1", "test", step, 9.0)])
            saved = step
        store.metrics.log(lease, [Metric("loss", "train", step + 1, 0.5)])
        if reason is EndReason.WORKER_LOST:
            lapse(store, run_id)
            assert store.queue.reap(is_dead=lambda _: True)
        elif reason is EndReason.PREEMPTED:
            store.queue.release(lease)
        elif reason is EndReason.COMPLETED:
            store.queue.finish(lease, result())
        elif reason is not None:
            store.queue.fail(lease, reason, "why")
        if reason in (EndReason.WORKER_LOST, EndReason.INFRA) and not saves:
            failed = store.runs.detail(run_id).run.state is RunState.FAILED
            if failed:
                store.runs.retry(run_id)
    return run_id


def happened(story: list[tuple[EndReason, bool]], last: EndReason | None) -> History:
    home = Path(tempfile.mkdtemp(prefix="lsqctl-history-"))
    with open_store(f"sqlite:///{home / 'home' / 'lsqctl.db'}") as store:
        store.workers.register(identity("w1"))
        tell(store, story, last)
        (found,) = store._database.read(lambda db: list(load_histories(db)))
    shutil.rmtree(home)
    return found


def moves(history: History) -> list[int]:
    return [i for i, one in enumerate(history.events) if one.to_state is not None]


def dropped(history: History, draw: Any) -> History:
    place = draw(st.sampled_from(moves(history)))
    return replace(history, events=[e for i, e in enumerate(history.events) if i != place])


def doubled(history: History, draw: Any) -> History:
    place = draw(st.sampled_from(moves(history)))
    kept = list(history.events)
    return replace(history, events=[*kept[: place + 1], *kept[place:]])


def swapped(history: History, draw: Any) -> History:
    places = moves(history)
    first = draw(st.integers(0, len(places) - 2))
    kept = list(history.events)
    a, b = places[first], places[first + 1]
    kept[a], kept[b] = kept[b], kept[a]
    return replace(history, events=kept)


def of_another_fence(history: History, draw: Any) -> History:
    place = draw(st.sampled_from([i for i, e in enumerate(history.events) if e.fence]))
    kept = list(history.events)
    fences = [one.fence for one in history.attempts if one.fence != kept[place].fence]
    kept[place] = replace(kept[place], fence=draw(st.sampled_from(["", "f" * 32, *fences])))
    return replace(history, events=kept)


def of_another_state(history: History, draw: Any) -> History:
    others = sorted(set(RunState) - {history.state})
    return replace(history, state=draw(st.sampled_from(others)))


def without_an_attempt(history: History, draw: Any) -> History:
    place = draw(st.integers(0, len(history.attempts) - 1))
    return replace(history, attempts=[e for i, e in enumerate(history.attempts) if i != place])


def with_another_end(history: History, draw: Any) -> History:
    place = draw(st.integers(0, len(history.attempts) - 1))
    kept = list(history.attempts)
    one = kept[place]
    ended = not one.finished
    kept[place] = replace(one, finished=ended, reason=EndReason.INFRA if ended else None)
    return replace(history, attempts=kept)


def written_by_nobody(history: History, draw: Any) -> History:
    step = draw(st.integers(0, 9))
    return replace(
        history, measurements=[*history.measurements, MeasurementSpan("metrics", "f" * 32, step)]
    )


def of_another_count(history: History, draw: Any) -> History:
    return replace(history, attempt=history.attempt + draw(st.sampled_from([-1, 1])))


def with_another_headline(history: History, draw: Any) -> History:
    more = draw(st.sampled_from([1, 2]))
    return replace(history, results=history.results + more, headlines=history.headlines + more)


MUTATIONS: list[Callable[[History, Any], History]] = [
    *(dropped, doubled, swapped, of_another_fence, of_another_state, without_an_attempt),
    *(with_another_end, written_by_nobody, of_another_count, with_another_headline),
]


@settings(max_examples=examples(25), suppress_health_check=list(HealthCheck))
@given(story=again, last=st.sampled_from(LAST))
def test_what_happened_passes(story, last):
    assert list(violations(happened(story, last))) == []


@cache
def stories() -> list[History]:
    cut = [(EndReason.WORKER_LOST, True), (EndReason.PREEMPTED, False)]
    retried = happened([(EndReason.INFRA, False)] * 3, EndReason.COMPLETED)
    return [*(happened(cut, last) for last in LAST), retried]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.__name__)
@given(data=st.data(), history=st.deferred(lambda: st.sampled_from(stories())))
def test_what_cannot_have_happened_is_found(mutation, data, history):
    assert list(violations(mutation(history, data.draw)))


def test_what_an_attempt_left_beyond_its_successors_start_is_found():
    history = stories()[0]
    first, later = history.attempts[0], history.attempts[-1]
    assert later.resumed_step == 3
    for kind in ("metrics", "checkpoints"):
        good = replace(history, measurements=[MeasurementSpan(kind, first.fence, 3)])
        bad = replace(history, measurements=[MeasurementSpan(kind, first.fence, 4)])
        assert list(violations(good)) == []
        assert f"{kind} of attempt 1 reach step 4" in " ".join(violations(bad))


DAMAGE = {
    "an event is gone": events.delete().where(events.c.kind == "succeeded"),
    "an attempt is gone": attempts.delete().where(attempts.c.number == 1),
    "a metric of nobody": metric_points.update().values(fence="f" * 32),
    "a result is gone": results.delete(),
    "a lease on a finished run": runs.update().values(lease_until=runs.c.created_at),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_db_check_reads_the_history_of_every_run(store: Store, damage: str) -> None:
    run_id = tell(store, [(EndReason.WORKER_LOST, True)], EndReason.COMPLETED)
    assert store.maintenance.check() == []
    store._database.write(lambda db: db.execute(DAMAGE[damage]))
    assert any(run_id in sentence for sentence in store.maintenance.check())


def test_db_check_finds_a_run_that_began_before_its_parent(store: Store) -> None:
    _, child = submit(store, new("p"), new("c", parents=["p"]))
    change = runs.update().where(runs.c.id == child).values(state=RunState.QUEUED)
    store._database.write(lambda db: db.execute(change))
    assert any(child in one and "a parent of it" in one for one in store.maintenance.check())
