"""Whatever workers, people and clocks do, the store agrees with a small model of it."""

from __future__ import annotations

import shutil
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lsqctl.errors import IllegalTransition, LeaseLost
from lsqctl.facts import Metric
from lsqctl.run import LEGAL, MAX_FAILURES, RETRIED, EndReason, Lease, RunState
from lsqctl.store import open_store
from lsqctl.store.histories import histories
from lsqctl.store.history import problems
from tests.store.conftest import LEASE
from tests.store.samples import Clock, checkpoint, identity, lapse, new, no_back_off, result

S = RunState
DEAD = (S.FAILED, S.CANCELLED)
NAMES = {"p": (), "q": (), "child": ("p", "q"), "grandchild": ("child",)}
names = st.sampled_from(list(NAMES))
reasons = st.sampled_from(
    [EndReason.INFRA, EndReason.LOST, EndReason.OOM, EndReason.CODE, EndReason.CANCELLED]
)


class Queue(RuleBasedStateMachine):
    """The model: a state for each name, who holds it, and its failures in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="lsqctl-machine-"))
        self.clock = Clock()
        url = f"sqlite:///{self.home}/home/lsqctl.db"
        self.store = open_store(url, lease_seconds=LEASE, clock=self.clock)
        self.store.register_worker(identity("w1"))
        self.ids: dict[str, str] = {}
        self.state: dict[str, RunState] = {}
        self.by_parent: set[str] = set()
        self.cancelling: set[str] = set()
        self.held: dict[str, Lease] = {}
        self.stale: list[Lease] = []
        self.failures: dict[str, int] = {}
        self.progressed: set[str] = set()
        self.furthest: dict[str, int] = {}
        self.logged: dict[str, dict[int, float]] = {}
        self.tries: dict[str, int] = {}
        self.tick = 0

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.home)

    # the model's moves

    def children(self, name: str) -> list[str]:
        return [child for child in self.ids if name in NAMES[child]]

    def after_parents(self, name: str) -> RunState:
        ready = all(self.state[parent] is S.SUCCEEDED for parent in NAMES[name])
        return S.QUEUED if ready else S.WAITING

    def put_back(self, name: str) -> None:
        for parent in NAMES[name]:
            if self.state[parent] in DEAD:
                self.put_back(parent)
        if self.state[name] not in DEAD:
            return
        self.state[name] = self.after_parents(name)
        self.failures[name] = 0
        self.by_parent.discard(name)
        for child in self.children(name):
            others = {self.state[parent] for parent in NAMES[child]}
            if child in self.by_parent and not others & set(DEAD):
                self.put_back(child)

    def close(self, name: str, to: RunState) -> None:
        self.state[name] = to
        self.cancelling.discard(name)
        for child in self.children(name):
            if self.state[child] is S.WAITING:
                self.by_parent.add(child)
                self.close(child, S.FAILED)

    def end(self, name: str, reason: EndReason) -> None:
        self.stale.append(self.held.pop(name))
        again = reason is EndReason.PREEMPTED
        if not again:
            self.failures[name] = 0 if name in self.progressed else self.failures[name] + 1
            again = reason in RETRIED and self.failures[name] < MAX_FAILURES
        elif name in self.progressed:
            self.failures[name] = 0
        self.progressed.discard(name)
        if reason is EndReason.CANCELLED or (again and name in self.cancelling):
            self.close(name, S.CANCELLED)
        elif again:
            self.state[name] = S.QUEUED
        else:
            self.close(name, S.FAILED)

    # what happens

    @rule(name=names)
    def submit(self, name: str) -> None:
        wanted = [n for n in NAMES if n == name or n in self.ancestors(name)]
        self.store.enqueue([new(n, parents=NAMES[n]) for n in wanted])
        for n in wanted:
            if n not in self.ids:
                self.ids[n] = self.store.by_name(n)[0].id
                dead = [p for p in NAMES[n] if self.state[p] in DEAD]
                assert not dead, "the parents were submitted, and so put back, before"
                self.state[n] = self.after_parents(n)
                self.failures[n] = self.tries[n] = 0
                self.furthest[n] = -1
                self.logged[n] = {}
            elif self.state[n] in DEAD:
                self.put_back(n)

    def ancestors(self, name: str) -> set[str]:
        found = set(NAMES[name])
        return found.union(*(self.ancestors(parent) for parent in found))

    @rule()
    def claim(self) -> None:
        no_back_off(self.store)
        claim = self.store.claim("w1")
        queued = [name for name, state in self.state.items() if state is S.QUEUED]
        assert (claim is None) == (not queued)
        if claim is not None:
            name = claim.run.name
            assert name in queued
            self.state[name] = S.RUNNING
            self.held[name] = claim.lease
            self.tries[name] += 1
            assert claim.lease.attempt == self.tries[name]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def renew(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        answer = self.store.renew(self.held[name])
        assert answer.cancel_requested == (name in self.cancelling)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), step=st.integers(0, 9), saved=st.booleans())
    def log(self, data: Any, step: int, saved: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        self.tick += 1
        metric = Metric("top1", "test", step, float(self.tick))
        self.logged[name][step] = metric.value
        if not saved:
            self.store.log_metrics(self.held[name], [metric])
            return
        self.store.record_checkpoint(self.held[name], checkpoint(step), [metric])
        if step > self.furthest[name]:
            self.furthest[name], self.failures[name] = step, 0
            self.progressed.add(name)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), step=st.none() | st.integers(0, 9))
    def resume(self, data: Any, step: int | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        self.store.resume_at(self.held[name], step)
        kept = -1 if step is None else step
        self.logged[name] = {s: v for s, v in self.logged[name].items() if s <= kept}

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        lease = self.held.pop(name)
        self.store.finish(lease, result())
        self.stale.append(lease)
        self.state[name] = S.SUCCEEDED
        self.progressed.discard(name)
        for child in self.children(name):
            if self.state[child] is S.WAITING:
                self.state[child] = self.after_parents(child)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), reason=reasons)
    def fail(self, data: Any, reason: EndReason) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        answer = self.store.fail(self.held[name], reason, "why")
        self.end(name, reason)
        assert answer is self.state[name]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        self.store.release(self.held[name])
        self.end(name, EndReason.PREEMPTED)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), heard=st.booleans())
    def reap(self, data: Any, heard: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        assert self.store.reap() == []
        self.clock.seconds += LEASE
        if heard:
            self.store.renew(self.held[name])
        lapse(self.store, self.ids[name])
        found = self.store.reap()
        assert [run.name for run in found] == ([] if heard else [name])
        if heard:
            self.store.renew(self.held[name])
        else:
            self.end(name, EndReason.LOST)

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.ids)))
        if self.state[name] in (*DEAD, S.SUCCEEDED):
            with pytest.raises(IllegalTransition):
                self.store.cancel(self.ids[name])
            return
        self.store.cancel(self.ids[name])
        if self.state[name] is S.RUNNING:
            self.cancelling.add(name)
        else:
            self.close(name, S.CANCELLED)

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def retry(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.ids)))
        if self.state[name] not in DEAD:
            with pytest.raises(IllegalTransition):
                self.store.retry(self.ids[name])
            return
        answer = self.store.retry(self.ids[name])
        self.put_back(name)
        assert answer is self.state[name]

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), write=st.sampled_from(["log", "finish", "fail", "checkpoint", "renew"]))
    def zombie(self, data: Any, write: str) -> None:
        lease = data.draw(st.sampled_from(self.stale))
        metrics = [Metric("top1", "test", 5, -1.0)]
        writes = {
            "log": lambda: self.store.log_metrics(lease, metrics),
            "finish": lambda: self.store.finish(lease, result()),
            "fail": lambda: self.store.fail(lease, EndReason.CODE, "zombie"),
            "checkpoint": lambda: self.store.record_checkpoint(lease, checkpoint(9), metrics),
            "renew": lambda: self.store.renew(lease),
        }
        with pytest.raises(LeaseLost):
            writes[write]()

    # what always holds

    @invariant()
    def states_agree_and_only_legal_moves_were_made(self) -> None:
        assert {run.name: run.state for run in self.store.runs()} == self.state
        for run_id in self.ids.values():
            moves = [e for e in self.store.events(run_id) if e.to_state]
            for before, after in pairwise(moves):
                assert after.from_state is before.to_state
                assert after.to_state in LEGAL[before.to_state or S.QUEUED]

    @invariant()
    def metrics_agree_and_only_succeeded_runs_have_a_result(self) -> None:
        for name, run_id in self.ids.items():
            found = {m.step: m.value for m in self.store.metrics(run_id)}
            assert found == self.logged[name]
            assert bool(self.store.result(run_id)) == (self.state[name] is S.SUCCEEDED)

    @invariant()
    def no_law_of_history_is_broken(self) -> None:
        found = self.store._database.read(lambda db: list(histories(db)))
        assert [sentence for one in found for sentence in problems(one)] == []

    @invariant()
    def nothing_waits_for_ever(self) -> None:
        for name, state in self.state.items():
            if state is S.WAITING:
                assert all(self.state[parent] not in DEAD for parent in NAMES[name])
                assert any(self.state[parent] is not S.SUCCEEDED for parent in NAMES[name])


TestQueue = Queue.TestCase
TestQueue.settings = settings(
    max_examples=12,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
