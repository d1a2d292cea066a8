"""Whatever workers, people and clocks do, the store agrees with a small model of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select, text

from lsqctl.errors import IllegalTransition, LeaseLost
from lsqctl.events import Metric
from lsqctl.run import TRANSITIONS, EndReason, Lease
from lsqctl.store import Store, open_store
from lsqctl.store.audit import violations
from lsqctl.store.maintenance import load_histories
from lsqctl.store.tables import metadata, runs
from tests.store.conftest import LEASE
from tests.store.model import DEAD, GPUS, PARENTS, PRIORITY, Model, S
from tests.store.samples import Clock, checkpoint, identity, lapse, new, no_back_off, result, zombie
from tests.store.test_queue import WRITES

names = st.sampled_from(list(PARENTS))
reasons = st.sampled_from(
    [EndReason.INFRA, EndReason.WORKER_LOST, EndReason.OOM, EndReason.CODE, EndReason.CANCELLED]
)


def empty(store: Store) -> None:
    """Delete all rows: a fresh database for every example would cost more than the example."""
    tables = [table.name for table in metadata.sorted_tables]
    if store._database.sqlite:
        statements = [f"DELETE FROM {name}" for name in reversed(tables)]
    else:
        statements = [f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE"]
    store._database.write(lambda db: [db.execute(text(one)) for one in statements])


class Queue(RuleBasedStateMachine):
    """Two workers, people and a reaper at one store, and the model beside it."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = open_store(self.url, lease_seconds=LEASE, clock=self.clock)
        empty(self.store)
        for worker in ("w1", "w2"):
            self.store.workers.register(identity(worker))
        self.model = Model()
        self.ids: dict[str, str] = {}
        self.tick = 0

    def teardown(self) -> None:
        self.store.close()

    def any_running(self, data: Any) -> tuple[str, Lease]:
        name = data.draw(st.sampled_from(self.model.running))
        lease = self.model.runs[name].lease
        assert lease is not None
        return name, lease

    @initialize()
    def begin_with_work(self) -> None:
        self.submit("grandchild")
        self.take("w1")

    # what workers do

    @rule(worker=st.sampled_from(["w1", "w2"]), gpus=st.sampled_from([1, 2, 4]), data=st.data())
    def claim(self, worker: str, gpus: int, data: Any) -> None:
        self.take(worker, gpus, data.draw(st.sampled_from([gpus, gpus, 0, 1])))

    def take(self, worker: str, gpus: int = 4, free: int = 4) -> None:
        no_back_off(self.store)
        claim = self.store.queue.claim(worker, gpus=gpus, free_gpus=free)
        expected = self.model.next_up(gpus, free)
        assert (claim.run.name if claim else None) == expected
        if claim and expected:
            self.model.claim(expected, claim.lease)
            assert claim.lease.attempt == self.model.runs[expected].tries
            assert (claim.run.worker, claim.run.gpus) == (worker, GPUS[expected])

    @precondition(lambda self: self.model.running)
    @rule(data=st.data())
    def renew(self, data: Any) -> None:
        name, lease = self.any_running(data)
        assert self.store.queue.renew(lease).cancel_requested == self.model.runs[name].cancelling
        for other in (zombie(lease), replace(lease, attempt=lease.attempt + 1)):
            with pytest.raises(LeaseLost):
                self.store.queue.renew(other)

    @precondition(lambda self: self.model.running)
    @rule(data=st.data(), step=st.integers(0, 9), saved=st.booleans())
    def log(self, data: Any, step: int, saved: bool) -> None:
        name, lease = self.any_running(data)
        self.tick += 1
        metric = Metric("top1", "test", step, float(self.tick))
        self.model.runs[name].logged[step] = metric.value
        if saved:
            self.store.checkpoints.record(lease, checkpoint(step), [metric])
            self.model.save(name, step)
        else:
            self.store.metrics.log(lease, [metric])

    @precondition(lambda self: self.model.running)
    @rule(data=st.data(), step=st.none() | st.integers(0, 9))
    def resume(self, data: Any, step: int | None) -> None:
        name, lease = self.any_running(data)
        self.store.metrics.resume_at(lease, step)
        self.model.resume(name, step)

    @precondition(lambda self: self.model.running)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        name, lease = self.any_running(data)
        self.store.queue.finish(lease, result())
        self.model.finish(name)

    @precondition(lambda self: self.model.running)
    @rule(data=st.data(), reason=reasons)
    def fail(self, data: Any, reason: EndReason) -> None:
        name, lease = self.any_running(data)
        answer = self.store.queue.fail(lease, reason, "why")
        self.model.end(name, reason)
        assert answer is self.model.runs[name].state

    @precondition(lambda self: self.model.running)
    @rule(data=st.data())
    def release(self, data: Any) -> None:
        name, lease = self.any_running(data)
        self.store.queue.release(lease)
        self.model.end(name, EndReason.PREEMPTED)

    @precondition(lambda self: self.model.running)
    @rule(data=st.data(), heard=st.booleans(), lapsed=st.booleans())
    def reap(self, data: Any, heard: bool, lapsed: bool) -> None:
        name, lease = self.any_running(data)
        assert self.store.queue.reap() == []
        self.clock.seconds += LEASE
        if heard:
            self.store.queue.renew(lease)
        if lapsed:
            lapse(self.store, self.ids[name])
        found = self.store.queue.reap()
        if lapsed and not heard:
            assert [run.name for run in found] == [name]
            self.model.end(name, EndReason.WORKER_LOST)
        else:
            assert found == []
            self.store.queue.renew(lease)

    @precondition(lambda self: self.model.stale)
    @rule(data=st.data(), write=st.sampled_from(sorted(WRITES)), forged=st.booleans())
    def zombie(self, data: Any, write: str, forged: bool) -> None:
        lease = data.draw(st.sampled_from(self.model.stale))
        if forged and self.model.running:
            lease = zombie(self.any_running(data)[1])
        with pytest.raises(LeaseLost):
            WRITES[write](self.store, lease)

    # what people do

    @rule(name=names)
    def submit(self, name: str) -> None:
        wanted = self.model.submit(name)
        self.store.queue.enqueue(
            [new(n, parents=PARENTS[n], gpus=GPUS[n], priority=PRIORITY[n]) for n in wanted]
        )
        for one in wanted:
            self.ids.setdefault(one, self.store.runs.list(name=one)[0].id)

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), held=st.booleans())
    def hold(self, data: Any, held: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.ids)))
        if self.model.runs[name].state in (*DEAD, S.SUCCEEDED):
            with pytest.raises(IllegalTransition):
                self.store.runs.hold(self.ids[name], held=held)
            return
        self.store.runs.hold(self.ids[name], held=held)
        self.model.runs[name].held = held

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.ids)))
        run = self.model.runs[name]
        if run.state in (*DEAD, S.SUCCEEDED):
            with pytest.raises(IllegalTransition):
                self.store.runs.cancel(self.ids[name])
            return
        self.store.runs.cancel(self.ids[name])
        if run.lease:
            run.cancelling = True
        else:
            self.model.close(name, S.CANCELLED)

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), from_scratch=st.booleans())
    def retry(self, data: Any, from_scratch: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.ids)))
        if self.model.runs[name].state not in DEAD:
            with pytest.raises(IllegalTransition):
                self.store.runs.retry(self.ids[name], from_scratch=from_scratch)
            return
        answer = self.store.runs.retry(self.ids[name], from_scratch=from_scratch)
        self.model.put_back(name, from_scratch=from_scratch)
        assert answer is self.model.runs[name].state

    # what always holds

    @invariant()
    def states_agree_and_only_legal_moves_were_made(self) -> None:
        found = {run.name: (run.state, run.attempt, run.held) for run in self.store.runs.list()}
        known = self.model.runs.items()
        assert found == {name: (run.state, run.tries, run.held) for name, run in known}
        for run_id in self.ids.values():
            moves = [event for event in self.store.runs.events(run_id) if event.to_state]
            for before, after in pairwise(moves):
                assert after.from_state is before.to_state
                assert after.to_state in TRANSITIONS[before.to_state or S.QUEUED]

    @invariant()
    def failures_in_a_row_agree(self) -> None:
        query = select(runs.c.name, runs.c.consecutive_failures, runs.c.max_checkpoint_step)
        rows = self.store._database.read(lambda db: db.execute(query).all())
        known = self.model.runs.items()
        assert {row.name: (row.consecutive_failures, row.max_checkpoint_step) for row in rows} == {
            name: (run.failures, run.furthest) for name, run in known
        }

    @invariant()
    def what_attempts_wrote_agrees_and_only_succeeded_runs_have_a_result(self) -> None:
        for name, run_id in self.ids.items():
            run = self.model.runs[name]
            assert {m.step: m.value for m in self.store.metrics.points(run_id)} == run.logged
            assert {one.step for one in self.store.checkpoints.list(run_id)} == run.saved
            assert bool(self.store.results.evaluations(run_id)) == (run.state is S.SUCCEEDED)

    @invariant()
    def no_law_of_history_is_broken(self) -> None:
        found = self.store._database.read(lambda db: list(load_histories(db)))
        assert [sentence for one in found for sentence in violations(one)] == []

    @invariant()
    def nothing_waits_for_ever(self) -> None:
        for name, run in self.model.runs.items():
            if run.state is S.WAITING:
                states = [self.model.runs[parent].state for parent in PARENTS[name]]
                assert not set(states) & set(DEAD)
                assert set(states) != {S.SUCCEEDED}

    @invariant()
    def every_attempt_is_ended_but_those_that_run(self) -> None:
        for name, run_id in self.ids.items():
            open_ones = [
                one.number for one in self.store.runs.detail(run_id).attempts if one.reason is None
            ]
            run = self.model.runs[name]
            assert open_ones == ([run.lease.attempt] if run.lease else [])


def explore(url: str, *, examples: int, steps: int) -> None:
    machine = type("Queue", (Queue,), {"url": url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # shrinking a machine takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_store_agrees_with_the_model(url: str) -> None:
    explore(url, examples=3 if url.startswith("sqlite") else 2, steps=40)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_store_agrees_with_the_model_for_long(url: str) -> None:
    explore(url, examples=400, steps=80)
