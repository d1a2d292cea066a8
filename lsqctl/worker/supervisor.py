"""The supervisor: claim, launch, renew, finish, until the queue is empty or someone says stop.

One process, no threads, never torch: a trainer that holds the GIL or the GPU cannot keep it from
renewing the lease.  Everything that decides about a run is one fenced call of the Store.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Protocol

from lsqctl.errors import LeaseLost, LockedDatabase, NotFound, StoreError, UnusableDatabase
from lsqctl.failpoint import failpoint
from lsqctl.run import Claim, EndReason, Run, RunState, WorkerIdentity
from lsqctl.settings import Settings
from lsqctl.store import Store
from lsqctl.text import pluralize
from lsqctl.worker.child import SAVE_GRACE_SECONDS, SERVER_TIMEOUT_SECONDS, Child, finalize_attempt
from lsqctl.worker.identity import is_dead
from lsqctl.worker.launchers import make_launcher, signal_handler
from lsqctl.worker.messages import ExitReport, attempt_spec
from lsqctl.worker.on_end import EndHooks
from lsqctl.worker.slots import Allocation, SlotAllocator
from lsqctl.worker.workspace_file import OnEnd


class Ticker:
    """Knows by name when a thing was due last; ``clock`` gives seconds that only grow."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next_due: dict[str, float] = {}

    def due(self, name: str, seconds: float) -> bool:
        """Return whether ``name`` is due now, and if so set its next time."""
        now = self._clock()
        if now < self._next_due.get(name, 0.0):
            return False
        self._next_due[name] = now + seconds
        return True

    def trigger(self, name: str) -> None:
        """Let ``name`` be due at once."""
        self._next_due.pop(name, None)


class Observer(Protocol):
    """Who watches a supervisor: a terminal, a log, a test."""

    def started(self, run: Run, allocation: Allocation, threads: int) -> None:
        """An attempt begins, with so many threads in all: a later one has those of the first."""

    def ended(self, run: Run, exit_report: ExitReport) -> None:
        """An attempt ended; ``run`` is as the store has it now."""

    def notify(self, text: str) -> None:
        """Something a person should know."""

    def tick(self) -> None:
        """A moment has passed; called about ten times a second."""


CLAIM_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How long a supervisor works, and how often it asks an empty queue."""

    until_empty: bool = False
    time_limit_seconds: float | None = None  # then save, requeue, and end in order
    exclusive_name: bool = False  # refuse to work when a live worker has our name
    poll_seconds: float = CLAIM_POLL_SECONDS
    idle_limit_seconds: float | None = None  # end in order after so long without a run
    only_gpus: int | None = None  # take runs alone that reserve so many
    trackers: tuple[str, ...] = ()  # what hears of each run's numbers
    launcher: str = ""  # what attempts are started by; empty: the fork server
    on_end: OnEnd = field(default_factory=OnEnd)  # what is done at the end of each run


DEFAULT_OPTIONS = WorkerOptions()


TICK_SECONDS = 0.1
_DATABASE_CHECK_SECONDS = 1.0


class Supervisor:
    """Works the queue with one child process per slot."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        identity: WorkerIdentity,
        slots: SlotAllocator,
        observer: Observer,
        options: WorkerOptions = DEFAULT_OPTIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._settings = settings
        self._identity = identity
        self._slots = slots
        self._observer = observer
        self._options = options
        self._launcher = make_launcher(settings.warm, slots.threads_per_slot, options.launcher)
        self._children: list[Child] = []
        self._exit_code: int | None = None  # the exit code, once it is time to end
        self._force = False
        self._force_at: float | None = None  # when to stop waiting for children that save
        self._unusable: UnusableDatabase | None = None
        self._clock = clock
        self._started_at = self._busy_at = clock()
        self._ticker = Ticker(clock)
        self._hooks = EndHooks(options.on_end, notify=observer.notify)

    def run(self) -> int:
        """Work until done or stopped; return 0, or 128 + the signal's number.

        Raises UsageError when our name is taken, and UnusableDatabase, once the children have
        saved, when the database was removed, replaced, damaged or upgraded.
        """
        with signal_handler(self._on_signal):
            if not self._register():
                return self._exit_code or 0
            try:
                self._launcher.start()
                while not self._is_finished():
                    if self._ticker.due("database", _DATABASE_CHECK_SECONDS):
                        self._log_errors(self._store.ensure_usable)
                    self._log_errors(self.tick)
                    self._log_errors(self._observer.tick)
                    time.sleep(TICK_SECONDS)
            finally:
                self._shutdown()
                self._hooks.close()
                with contextlib.suppress(NotFound):
                    self._log_errors(lambda: self._store.workers.deregister(self._identity.id))
        if self._unusable is not None:
            raise self._unusable
        return self._exit_code or 0

    def _register(self) -> bool:
        """Become known once the database is not locked; False when it is time to end first."""
        dead_check = is_dead if self._options.exclusive_name else None
        while self._exit_code is None and not self._is_idle_too_long():
            try:
                self._store.workers.register(self._identity, is_dead=dead_check)
                return True
            except LockedDatabase as error:
                self._observer.notify(f"waiting for it: {error}")
                self._enforce_time_limits()
        return False

    def tick(self) -> None:
        """Do once all that is due: finalize, renew, reap, claim."""
        self._finalize_ended()
        self._hooks.tick()
        self._enforce_time_limits()
        if self._ticker.due("renew", self._settings.heartbeat_seconds):
            self._renew()
        reap_seconds = self._settings.reap_seconds(self._store.queue.running_when_reaped)
        if self._ticker.due("reap", reap_seconds):
            self._log_errors(self._reap)
        can_claim = self._slots.pool.has_room and self._exit_code is None
        if can_claim and self._ticker.due("claim", self._options.poll_seconds):
            self._log_errors(lambda: self._as_known(self._claim_available))

    def _as_known(self, action: Callable[[], object]) -> None:
        """Do what a registered worker may, and register again where none is known of our id."""
        try:
            action()
        except NotFound:
            self._observer.notify(
                "the database does not know this worker: it was restored from a copy; registering"
            )
            self._store.workers.register(self._identity)

    def _claim_available(self) -> None:
        """Claim as many runs as there is room for."""
        self._slots.refresh(self._on_gpu_notice)
        while self._slots.pool.free and self._exit_code is None:
            pool = self._slots.pool
            claim = self._store.queue.claim(
                self._identity.id,
                device=self._identity.device,
                gpus=pool.most_ranks,
                free_gpus=pool.free_ranks,
                only_gpus=self._options.only_gpus,
            )
            if claim is None:
                idle = not self._children and not self._options.until_empty
                if idle and self._ticker.due("idle", math.inf):  # once
                    self._observer.notify("waiting for runs; Ctrl-C ends the worker")
                return
            self._launch(claim)

    def _on_gpu_notice(self, notice: str) -> None:
        self._observer.notify(notice or "every GPU may be used again")
        self._store.workers.set_notice(self._identity.id, notice)

    def _launch(self, claim: Claim) -> None:
        """Launch what was claimed; what cannot be launched is finalized as what has ended."""
        allocation = self._slots.allocate(claim.run.gpus)
        spec = attempt_spec(claim, allocation, self._settings, self._options.trackers)
        child = Child(claim, allocation, spec, self._launcher, self._clock)
        self._children.append(child)
        if child.is_launched:
            failpoint("worker.launched")
            self._observer.started(claim.run, allocation, spec.threads * spec.ranks)

    def _renew(self) -> None:
        """Renew every lease; stop a child whose run was cancelled or taken over."""
        heartbeat = partial(self._store.workers.heartbeat, self._identity.id)
        self._log_errors(lambda: self._as_known(heartbeat))
        for child in self._children:
            asked_at = self._clock()
            try:
                failpoint("worker.before-renew")
                renewal = self._store.queue.renew(child.claim.lease)
                failpoint("worker.after-renew")
            except LeaseLost:
                self._log_errors(lambda child=child: self._check_ownership(child))  # type: ignore[misc]
            except UnusableDatabase as error:
                self._give_up(error)
            except (StoreError, OSError) as error:
                self._observer.notify(str(error))
                if asked_at - child.renewed_at > self._settings.lease_seconds:
                    child.stop()  # another worker may own the run by now
            else:
                child.renewed_at = asked_at
                if renewal.cancel_requested:
                    child.cancel_requested = True
                    child.stop()

    def _check_ownership(self, child: Child) -> None:
        """Stop a child that owns its run no more, unless that is because it has just finished."""
        run = self._current_run(child.claim.run)
        if run.state is RunState.RUNNING or run.attempt != child.claim.lease.attempt:
            self._observer.notify(f"{run.name} ({run.id}): its lease was lost; stopping it")
            child.kill()

    def _reap(self) -> None:
        """Take back runs whose worker is dead, and decide rungs that they, or others, held up."""
        self._hooks.reap(self._store, self._settings)
        self._store.rungs.decide_due()

    def _finalize_ended(self) -> None:
        """Finalize the attempts whose child has ended; one that cannot be is tried again.

        At the end, and where the database cannot be used, it is left to the reaper of others.
        """
        for child in [child for child in self._children if child.exit_code() is not None]:
            done = self._log_errors(lambda child=child: self._finalize(child))  # type: ignore[misc]
            if done or self._unusable or self._force:
                self._children.remove(child)
                self._slots.release(child.allocation, child.exit_report())
                self._ticker.trigger("claim")

    def _enforce_time_limits(self) -> None:
        """Stop what is over its time limit: an attempt, or this worker."""
        now, limit = self._clock(), self._options.time_limit_seconds
        for child in self._children:
            child.enforce_time_limit(now)
        if any(child.is_server_hung(now) for child in self._children):
            self._observer.notify("the fork server hangs; starting another")
            self._launcher.abandon(f"it gave no sign of life for {SERVER_TIMEOUT_SECONDS:g} s")
        if self._exit_code is not None:
            self._force |= self._force_at is not None and now >= self._force_at
            self._signal_children()  # also one that was being started when the signal came
        elif limit is not None and now - self._started_at >= limit:
            self._begin_shutdown(0, f"the time limit of {limit:g} s is over")

    def _finalize(self, child: Child) -> None:
        self._log_errors(self._store.ensure_usable)  # or it would be stored in what has gone
        if child.stored_end is None:  # else it was stored, and then the database was away
            child.stored_end = finalize_attempt(self._store, child)
        failpoint("worker.end-stored")
        if child.stored_end.ends_worker:
            self._give_up(UnusableDatabase(child.stored_end.message))
        self._tell_end(child.claim.run, child.stored_end)

    def _tell_end(self, claimed: Run, exit_report: ExitReport) -> None:
        run = self._current_run(claimed)
        self._observer.ended(run, exit_report)
        if exit_report.reason is not EndReason.WORKER_LOST:  # else who found it lost has told
            self._hooks.ended(run, self._settings.run_dir(run.id))

    def _current_run(self, claimed: Run) -> Run:
        """Return a run as it is now, or as it was claimed when it was removed meanwhile."""
        try:
            return self._store.runs.detail(claimed.id).run
        except NotFound:
            return claimed

    def _is_finished(self) -> bool:
        if self._children:
            self._busy_at = self._clock()
            return False
        return (
            self._exit_code is not None
            or self._is_idle_too_long()
            or (self._options.until_empty and self._queue_is_empty())
        )

    def _is_idle_too_long(self) -> bool:
        limit = self._options.idle_limit_seconds
        if limit is None or self._clock() - self._busy_at < limit:
            return False
        self._observer.notify(f"no run to take for {limit:g} s: ending")
        return True

    def _queue_is_empty(self) -> bool:
        """Return whether no run is left that can go on without a person; asked as we claim."""
        if not self._ticker.due("count", self._options.poll_seconds):
            return False
        try:
            runnable, held, blocked = self._store.queue.remaining()
        except UnusableDatabase as error:
            self._give_up(error)
            return False
        except (StoreError, OSError):  # said by the next claim
            return False
        if runnable == 0 and held:
            counts_text = f"{held} held" + (f", {blocked} waiting for them" if blocked else "")
            self._observer.notify(f"{counts_text}; `lsqctl runs release` lets them start")
        elif runnable == 0 and self._busy_at == self._started_at:
            self._observer.notify("no run is queued; `lsqctl submit RECIPE` queues one")
        return runnable == 0

    def _log_errors(self, action: Callable[[], object]) -> bool:
        """Do it; a database or disk that is away for a moment is said, not fatal. True if done."""
        try:
            action()
        except UnusableDatabase as error:
            self._give_up(error)
            return False
        except (StoreError, OSError) as error:
            if self._ticker.due("store error", 5.0):
                self._observer.notify(str(error))
            return False
        return True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """First: save, requeue the runs, end.  Second: kill the children, requeue the runs."""
        code = 128 + (signal.SIGTERM if number == signal.SIGUSR1 else number)
        if number == signal.SIGUSR1 and self._options.idle_limit_seconds is not None:
            code = 0  # a pilot near its time limit: to its scheduler an end in order
        if self._exit_code is None:
            self._begin_shutdown(code, signal.Signals(number).name)
        else:
            self._exit_code, self._force = code, True
            self._signal_children()

    def _give_up(self, error: UnusableDatabase) -> None:
        """End once the children have saved; what is given back reaches what is there by now."""
        if self._unusable is None:
            self._unusable = error
            self._store.close()
            if self._exit_code is None:
                self._begin_shutdown(error.exit_code, str(error))

    def _begin_shutdown(self, code: int, reason: str) -> None:
        self._exit_code = code
        self._force_at = self._clock() + SAVE_GRACE_SECONDS + self._settings.lease_seconds
        runs = pluralize(len(self._children), "run")
        self._observer.notify(f"{reason}: saving {runs} for the queue; again to stop at once")
        self._signal_children()

    def _signal_children(self) -> None:
        """Ask every child to save and end; in a hurry leave none behind, nor one to be forked."""
        for child in self._children:
            child.kill() if self._force else child.stop()
        if self._force:
            self._launcher.close()

    def _shutdown(self) -> None:
        """At the end, and on an error of our own: leave no child behind, and give its run back."""
        self._force = True
        self._signal_children()
        for child in self._children:
            with contextlib.suppress(LeaseLost, StoreError, OSError):  # the lease will lapse
                self._store.queue.fail(
                    child.claim.lease, EndReason.INFRA, "its worker ended by an error"
                )
