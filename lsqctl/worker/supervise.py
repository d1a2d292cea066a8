"""The supervisor: claim, launch, renew, finish, until the queue is empty or someone says stop.

One process, no threads, never torch: a trainer that holds the GIL or the GPU cannot keep it from
renewing the lease.  Everything that decides about a run is one fenced call of the Store.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from types import FrameType

from lsqctl.errors import LeaseLost, StoreError
from lsqctl.failpoint import failpoint
from lsqctl.run import Claim, EndReason, RunState, WorkerIdentity
from lsqctl.settings import Settings
from lsqctl.store import Store
from lsqctl.wording import counted
from lsqctl.worker.child import Child
from lsqctl.worker.forking import make_launcher
from lsqctl.worker.identity import provably_gone
from lsqctl.worker.observer import Observer
from lsqctl.worker.options import DEFAULTS, Options
from lsqctl.worker.order import LastWords, order_for
from lsqctl.worker.places import Places
from lsqctl.worker.schedule import Schedule
from lsqctl.worker.settlement import settle
from lsqctl.worker.signals import handled

TICK_SECONDS = 0.1
_THERE_SECONDS = 1.0


class Supervisor:
    """Works the queue with one child process per slot."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        identity: WorkerIdentity,
        places: Places,
        observer: Observer,
        options: Options = DEFAULTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._settings = settings
        self._identity = identity
        self._places = places
        self._observer = observer
        self._options = options
        self._launcher = make_launcher(settings.warm, places.threads)
        self._children: list[Child] = []
        self._ending: int | None = None  # the exit code, once it is time to end
        self._hurried = False
        self._clock = clock
        self._began = clock()
        self._schedule = Schedule(clock)

    def run(self) -> int:
        """Work until done or stopped; return 0, or 128 + the signal's number.

        Raises UsageError when our name is taken, StoreError when the database was removed.
        """
        gone = provably_gone if self._options.own_name else None
        self._store.register_worker(self._identity, alone=gone)
        with handled(self._on_signal):
            try:
                self._launcher.start()
                while not self._finished():
                    if self._schedule.due("there", _THERE_SECONDS):
                        self._store.check_there()
                    self._guarded(self.turn)
                    self._guarded(self._observer.tick)
                    time.sleep(TICK_SECONDS)
            finally:
                self._abandon()
                self._guarded(lambda: self._store.worker_gone(self._identity.id))
        return self._ending or 0

    def turn(self) -> None:
        """Do once all that is due: settle, renew, look for the dead, claim."""
        self._collect()
        self._mind_time()
        if self._schedule.due("renew", self._settings.heartbeat_seconds):
            self._renew()
        if self._schedule.due("reap", self._settings.look_seconds):
            self._guarded(self._reap)
        willing = self._places.pool.room and self._ending is None
        if willing and self._schedule.due("claim", self._options.poll_seconds):
            self._guarded(self._fill)

    def _fill(self) -> None:
        """Claim as many runs as there is room for."""
        self._places.look(self._noticed)
        while self._places.pool.free and self._ending is None:
            pool = self._places.pool
            claim = self._store.claim(
                self._identity.id,
                device=self._identity.device,
                gpus=pool.usable_gpus,
                free_gpus=len(pool.whole_gpus),
            )
            if claim is None:
                return
            self._launch(claim)

    def _noticed(self, notice: str) -> None:
        self._observer.said(notice or "every GPU may be used again")
        self._store.worker_notice(self._identity.id, notice)

    def _launch(self, claim: Claim) -> None:
        share = self._places.take(claim.run.gpus)
        try:
            failpoint("worker.claimed")
            child = Child(claim, share, order_for(claim, share, self._settings), self._launcher)
        except OSError as error:
            words = LastWords(EndReason.INFRA, str(error))
            self._places.give_back(share, words)
            self._store.fail(claim.lease, words.reason, words.message)
            return
        self._children.append(child)
        failpoint("worker.launched")
        self._observer.started(claim.run, share)

    def _renew(self) -> None:
        """Renew every lease; stop a child whose run was cancelled or taken over."""
        self._guarded(lambda: self._store.worker_seen(self._identity.id))
        for child in self._children:
            started = time.monotonic()
            try:
                failpoint("worker.before-renew")
                renewal = self._store.renew(child.claim.lease)
                failpoint("worker.after-renew")
            except LeaseLost:
                self._guarded(lambda child=child: self._disown(child))  # type: ignore[misc]
            except (StoreError, OSError) as error:
                self._observer.said(str(error))
                if started - child.renewed > self._settings.lease_seconds:
                    child.stop()  # another worker may own the run by now
            else:
                child.renewed = started
                if renewal.cancel_requested:
                    child.cancelling = True
                    child.stop()

    def _disown(self, child: Child) -> None:
        """Stop a child that owns its run no more, unless that is because it has just finished."""
        run = self._store.detail(child.claim.run.id).run
        if run.state is RunState.RUNNING or run.attempt != child.claim.lease.attempt:
            self._observer.said(f"{run.name} ({run.id}): its lease was lost; stopping it")
            child.kill()

    def _reap(self) -> None:
        """Take back runs whose worker is dead."""
        for run in self._store.reap(gone=provably_gone):
            self._observer.said(f"{run.name} ({run.id}): its worker was lost; now {run.state}")

    def _collect(self) -> None:
        """Settle the attempts whose child has ended; one that cannot be settled is tried again."""
        for child in [one for one in self._children if one.exit_code() is not None]:
            if self._guarded(lambda child=child: self._settle(child)):  # type: ignore[misc]
                self._children.remove(child)
                self._places.give_back(child.share, child.last_words())
                self._schedule.now("claim")

    def _mind_time(self) -> None:
        """Stop what is over its time limit: an attempt, or this worker."""
        now, limit = self._clock(), self._options.time_limit_seconds
        for child in self._children:
            child.mind_time(now)
        if self._ending is not None:
            self._press()  # also one that was being started when the signal came
        elif limit is not None and now - self._began >= limit:
            self._end(0, f"the time limit of {limit:g} s is over")

    def _settle(self, child: Child) -> None:
        words = settle(self._store, child)
        failpoint("worker.end-stored")
        self._observer.ended(self._store.detail(child.claim.run.id).run, words)

    def _finished(self) -> bool:
        asked = self._ending is not None
        return not self._children and (asked or (self._options.until_empty and self._empty()))

    def _empty(self) -> bool:
        """Return whether no run is left that can go on without a person; asked as we claim."""
        if not self._schedule.due("count", self._options.poll_seconds):
            return False
        try:
            able, held, behind = self._store.remaining()
        except (StoreError, OSError):  # said by the next claim
            return False
        if able == 0 and held:
            told = f"{held} held" + (f", {behind} waiting for them" if behind else "")
            self._observer.said(f"{told}; `lsqctl runs release` lets them start")
        return able == 0

    def _guarded(self, action: Callable[[], object]) -> bool:
        """Do it; a database or disk that is away for a moment is said, not fatal. True if done."""
        try:
            action()
        except (StoreError, OSError) as error:
            if self._schedule.due("store error", 5.0):
                self._observer.said(str(error))
            return False
        return True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """First: save, put the runs back, end.  Second: kill the children, put the runs back."""
        code = 128 + (signal.SIGTERM if number == signal.SIGUSR1 else number)
        if self._ending is None:
            self._end(code, signal.Signals(number).name)
        else:
            self._ending, self._hurried = code, True
            self._press()

    def _end(self, code: int, why: str) -> None:
        self._ending = code
        runs = counted(len(self._children), "run")
        self._observer.said(f"{why}: saving {runs} for the queue; again to stop at once")
        self._press()

    def _press(self) -> None:
        """Ask every child to save and end; in a hurry leave none behind, nor one to be forked."""
        for child in self._children:
            child.kill() if self._hurried else child.stop()
        if self._hurried:
            self._launcher.close()

    def _abandon(self) -> None:
        """At the end, and on an error of our own: leave no child behind, and give its run back."""
        self._hurried = True
        self._press()
        for child in self._children:
            with contextlib.suppress(LeaseLost, StoreError, OSError):  # the lease will lapse
                self._store.fail(child.claim.lease, EndReason.INFRA, "its worker ended by an error")
