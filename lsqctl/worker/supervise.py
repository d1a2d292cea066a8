"""The supervisor: claim, launch, renew, finish, until the queue is empty or someone says stop.

One process, no threads, never torch: a trainer that holds the GIL or the GPU cannot keep it from
renewing the lease.  Everything that decides about a run is one fenced call of the Store.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from lsqctl.errors import LeaseLost, StoreError
from lsqctl.failpoint import failpoint
from lsqctl.run import Claim, EndReason, Run, RunState, WorkerIdentity
from lsqctl.settings import Settings
from lsqctl.store import Store
from lsqctl.worker.child import Child
from lsqctl.worker.identity import provably_gone
from lsqctl.worker.order import LastWords, Order
from lsqctl.worker.slots import Slot
from lsqctl.worker.spool import take_in

TICK_SECONDS = 0.1
IDLE_CLAIM_SECONDS = 0.5


class Observer(Protocol):
    """Who watches a supervisor: a terminal, a log, a test."""

    def started(self, run: Run, slot: Slot) -> None:
        """An attempt begins."""

    def ended(self, run: Run, words: LastWords) -> None:
        """An attempt ended; ``run`` is as the store has it now."""

    def said(self, text: str) -> None:
        """Something a person should know."""

    def tick(self) -> None:
        """A moment has passed; called about ten times a second."""


@dataclass(frozen=True, slots=True)
class Options:
    """How long a supervisor works, and on what."""

    until_empty: bool = False
    poll_seconds: float = IDLE_CLAIM_SECONDS


class Supervisor:
    """Works the queue with one child process per slot."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        identity: WorkerIdentity,
        slots: Sequence[Slot],
        observer: Observer,
        options: Options = Options(),
    ) -> None:
        self._store = store
        self._settings = settings
        self._identity = identity
        self._free = list(slots)
        self._observer = observer
        self._options = options
        self._children: list[Child] = []
        self._stop_signal: int | None = None
        self._due: dict[str, float] = {}

    def run(self) -> int:
        """Work until done or stopped; return 0, or 128 + the signal's number."""
        self._store.register_worker(self._identity)
        previous = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            while not self._finished():
                self._guarded(self._turn)
                self._guarded(self._observer.tick)
                time.sleep(TICK_SECONDS)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._abandon()
            self._guarded(lambda: self._store.worker_gone(self._identity.id))
        return 0 if self._stop_signal is None else 128 + self._stop_signal

    def _turn(self) -> None:
        self._collect()
        if self._every("renew", self._settings.heartbeat_seconds):
            self._renew()
            self._guarded(self._reap)
        willing = self._free and self._stop_signal is None
        if willing and self._every("claim", self._options.poll_seconds):
            self._guarded(self._fill)

    def _fill(self) -> None:
        """Claim as many runs as there are free slots."""
        while self._free:
            claim = self._store.claim(self._identity.id, device=self._free[0].device)
            if claim is None:
                return
            self._launch(claim, self._free.pop(0))

    def _launch(self, claim: Claim, slot: Slot) -> None:
        try:
            failpoint("worker.claimed")
            child = Child(claim, slot, self._order(claim, slot))
        except OSError as error:
            self._free.append(slot)
            self._store.fail(claim.lease, EndReason.INFRA, str(error))
            return
        self._children.append(child)
        failpoint("worker.launched")
        self._observer.started(claim.run, slot)

    def _order(self, claim: Claim, slot: Slot) -> Order:
        settings, run = self._settings, claim.run
        data_dir = settings.data_dir_of(claim.snapshot.get("data_dir"))
        return Order(
            run_id=run.id,
            attempt=claim.lease.attempt,
            fence=claim.lease.fence,
            db_url=settings.db_url,
            lease_seconds=settings.lease_seconds,
            run_dir=str(settings.run_dir(run.id)),
            data_dir=str(data_dir),
            device=slot.device,
            threads=int(claim.circumstances.get("threads", slot.threads)),
            supervisor_pid=os.getpid(),
        )

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
                self._free.append(child.slot)
                self._due.pop("claim", None)

    def _settle(self, child: Child) -> None:
        words, lease = child.last_words(), child.claim.lease
        failpoint("worker.child-ended")
        try:
            if words.reason is not EndReason.COMPLETED:
                take_in(self._store, lease, Path(child.order.run_dir))
            if child.cancelling and words.reason is not EndReason.COMPLETED:
                self._store.fail(lease, EndReason.CANCELLED, "cancelled by request")
            elif words.reason is EndReason.PREEMPTED or (
                child.stopping and words.reason is EndReason.INFRA
            ):
                failpoint("worker.before-release")
                self._store.release(lease)
            elif words.reason is not EndReason.COMPLETED:
                self._store.fail(lease, words.reason, words.message)
        except LeaseLost:
            words = LastWords(EndReason.LOST, "another attempt owns the run; nothing was changed")
        failpoint("worker.end-stored")
        self._observer.ended(self._store.detail(lease.run_id).run, words)

    def _finished(self) -> bool:
        asked = self._stop_signal is not None
        return not self._children and (asked or (self._options.until_empty and self._empty()))

    def _empty(self) -> bool:
        """Return whether no run is left that can go on without a person; asked as we claim."""
        if not self._every("count", self._options.poll_seconds):
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
            if self._every("store error", 5.0):
                self._observer.said(str(error))
            return False
        return True

    def _every(self, what: str, seconds: float) -> bool:
        """Return whether ``what`` is due now, and if so set its next time."""
        now = time.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + seconds
        return True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """First: save, put the runs back, end.  Second: kill the children, put the runs back."""
        first, self._stop_signal = self._stop_signal is None, number
        if first:
            self._observer.said(
                f"{signal.Signals(number).name}: saving {len(self._children)} run(s) and putting "
                "them back; again to stop at once"
            )
        for child in self._children:
            child.stop() if first else child.kill()

    def _abandon(self) -> None:
        """On an error of our own: leave no child behind, and give its run back."""
        for child in self._children:
            child.kill()
            with contextlib.suppress(LeaseLost, StoreError, OSError):  # the lease will lapse
                self._store.fail(child.claim.lease, EndReason.INFRA, "its worker ended by an error")
