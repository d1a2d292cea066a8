"""A model of the queue in plain Python: what the store must agree with, whatever happens."""

from __future__ import annotations

from dataclasses import dataclass, field

from lsqctl.run import MAX_CONSECUTIVE_FAILURES, RETRYABLE_REASONS, EndReason, Lease, RunState

S = RunState
DEAD = (S.FAILED, S.CANCELLED)
PARENTS = {"p": (), "q": (), "child": ("p", "q"), "grandchild": ("child",)}
GPUS = {"p": 1, "q": 2, "child": 1, "grandchild": 4}
PRIORITY = {"p": 0, "q": 1, "child": 0, "grandchild": 0}


@dataclass
class Known:
    """One run: its state, its failures in a row, and what its attempts wrote."""

    state: RunState
    failures: int = 0
    tries: int = 0
    furthest: int = -1
    held: bool = False
    cancelling: bool = False
    ended_by_parent: bool = False
    progressed: bool = False  # the attempt that runs now
    lease: Lease | None = None
    logged: dict[int, float] = field(default_factory=dict)
    saved: set[int] = field(default_factory=set)


class Model:
    """The runs by name, in the order of their submission."""

    def __init__(self) -> None:
        self.runs: dict[str, Known] = {}
        self.stale: list[Lease] = []

    @property
    def running(self) -> list[str]:
        """The names of the runs that an attempt owns."""
        return sorted(name for name, run in self.runs.items() if run.lease)

    def submit(self, name: str) -> list[str]:
        """Submit a run after its ancestors; return all their names in that order."""
        wanted = [one for one in PARENTS if one == name or one in _ancestors(name)]
        for one in wanted:
            if one not in self.runs:
                self.runs[one] = Known(self._after_parents(one))
            elif self.runs[one].state in DEAD:
                self.put_back(one)
        return wanted

    def next_up(self, gpus: int, free: int) -> str | None:
        """Return the run that a worker with so many GPUs gets, so many of them free."""
        fitting = [
            name
            for name, run in self.runs.items()
            if run.state is S.QUEUED and not run.held and GPUS[name] <= max(gpus, 1)
        ]
        first = min(fitting, key=lambda name: -PRIORITY[name], default=None)
        return first if first and GPUS[first] <= max(free, 1) else None

    def claim(self, name: str, lease: Lease) -> None:
        """Give a run to an attempt."""
        run = self.runs[name]
        run.state, run.lease, run.progressed = S.RUNNING, lease, False
        run.tries += 1

    def save(self, name: str, step: int) -> None:
        """Keep a checkpoint; going further than ever before forgives the failures."""
        run = self.runs[name]
        run.saved.add(step)
        if step > run.furthest:
            run.furthest, run.failures, run.progressed = step, 0, True

    def resume(self, name: str, step: int | None) -> None:
        """Forget what lies after a step; None: all."""
        run, kept = self.runs[name], -1 if step is None else step
        run.logged = {at: value for at, value in run.logged.items() if at <= kept}
        run.saved = {at for at in run.saved if at <= kept}

    def finish(self, name: str) -> None:
        """End a run well and queue what waited for it alone."""
        self._give_up_lease(name)
        self.runs[name].state, self.runs[name].failures = S.SUCCEEDED, 0
        for child in self._children(name):
            if self.runs[child].state is S.WAITING:
                self.runs[child].state = self._after_parents(child)

    def end(self, name: str, reason: EndReason) -> None:
        """End an attempt badly."""
        self._give_up_lease(name)
        run = self.runs[name]
        spent = reason is not EndReason.PREEMPTED
        failures = 0 if run.progressed else run.failures + spent
        again = not spent or (reason in RETRYABLE_REASONS and failures < MAX_CONSECUTIVE_FAILURES)
        if reason is EndReason.CANCELLED or (again and run.cancelling):
            self.close(name, S.CANCELLED)
        elif again:
            run.state, run.failures = S.QUEUED, failures
        else:
            self.close(name, S.FAILED)

    def close(self, name: str, to: RunState) -> None:
        """End a run, and with it, as it ended, the children that wait for it."""
        self.runs[name].state, self.runs[name].cancelling = to, False
        for child in self._children(name):
            if self.runs[child].state is S.WAITING:
                self.runs[child].ended_by_parent = True
                self.close(child, to)

    def put_back(self, name: str, *, from_scratch: bool = False) -> None:
        """Take a dead run back, first its dead parents, then the children that ended with it."""
        for parent in PARENTS[name]:
            if self.runs[parent].state in DEAD:
                self.put_back(parent)
        run = self.runs[name]
        if from_scratch:
            run.logged, run.saved, run.furthest = {}, set(), -1
        if run.state not in DEAD:
            return
        run.state, run.failures, run.ended_by_parent = self._after_parents(name), 0, False
        for child in self._children(name):
            dead_parent = any(self.runs[one].state in DEAD for one in PARENTS[child])
            if self.runs[child].ended_by_parent and not dead_parent:
                self.put_back(child)

    def _give_up_lease(self, name: str) -> None:
        lease = self.runs[name].lease
        assert lease is not None
        self.stale.append(lease)
        self.runs[name].lease = None

    def _children(self, name: str) -> list[str]:
        return [child for child in self.runs if name in PARENTS[child]]

    def _after_parents(self, name: str) -> RunState:
        ready = all(self.runs[parent].state is S.SUCCEEDED for parent in PARENTS[name])
        return S.QUEUED if ready else S.WAITING


def _ancestors(name: str) -> set[str]:
    found = set(PARENTS[name])
    return found.union(*(_ancestors(parent) for parent in found))
