"""Write an attempt's facts to the store in batches: one commit a second, not one a step.

A database that is locked, full or away does not stop the training at once: metrics wait, in memory
and on the disk. A checkpoint, the start and the finish are waited with for the database.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from lsqctl.errors import LeaseLost, StoreError
from lsqctl.facts import (
    Checkpoint,
    Compiled,
    Fact,
    Measured,
    Metric,
    Note,
    Progress,
    QuantizerStats,
    Result,
    Resumed,
)
from lsqctl.failpoint import failpoint
from lsqctl.run import EndReason, Lease
from lsqctl.worker.patience import patiently, pause_after
from lsqctl.worker.spool import Spool

if TYPE_CHECKING:
    from lsqctl.store import Store

T = TypeVar("T")

FLUSH_SECONDS = 1.0
PATIENCE_LEASES = 4  # how long to wait for a database; the supervisor, who has the lease, less long


class Recorder:
    """Buffers metrics and progress; a checkpoint takes the buffer along, in one transaction.

    So a resumed attempt finds exactly the points that its state has seen: in the database, or in
    the spool that the attempt before it left.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        *,
        run_dir: Path,
        stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._lease = lease
        self._stop = stop
        self._clock = clock
        self._spool = Spool(run_dir, lease.attempt)
        self._measured: list[Measured] = []
        self._progress: Progress | None = None
        self._notes: list[Note] = []
        self._failures = 0
        self._due = clock() + FLUSH_SECONDS

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what is left, and never hide why an attempt is failing.

        What the database does not take stays in the spool for the attempt that goes on.
        """
        stored = False
        try:
            if kind is None or not issubclass(kind, LeaseLost):
                stored = self._try()
        except LeaseLost:
            if kind is None:
                raise
        finally:
            self._spool.close(keep=not stored)

    def record(self, fact: Fact) -> None:
        """Take one fact; raises LeaseLost when the attempt no longer owns its run.

        Raises StoreError when the database stays away at the start, a checkpoint or the finish.
        """
        match fact:
            case Metric() | QuantizerStats():
                self._spool.keep(fact)
                self._measured.append(fact)
            case Progress():
                self._progress = fact
            case Resumed():
                self._patiently(partial(self._take_over, fact.step))
            case Compiled():
                found = {"compile": fact.compiled, "channels_last": fact.channels_last}
                self._patiently(lambda: self._store.settle(self._lease, found))
            case Note():
                print(f"lsqctl: {fact.text}", flush=True)
                self._notes.append(fact)
            case Checkpoint():
                self._patiently(partial(self._keep, fact))
                self._spool.clear()
            case Result():
                self._patiently(self._write)
                self._spool.clear()
                failpoint("finish.before")
                self._finish(fact)
                failpoint("finish.after")
        if self._clock() >= self._due:
            self._try()

    def _take_over(self, step: int | None) -> None:
        """Go on from a step: what lies after it is forgotten, what was spooled up to it kept."""
        kept = [
            one for one in self._spool.left_by_others() if step is not None and one.step <= step
        ]
        self._store.resume_at(self._lease, step)
        if kept:
            self._store.log_metrics(self._lease, kept)
        self._spool.forget_others()

    def _try(self) -> bool:
        """Write what waits; return whether the database took it, else when to try next is set."""
        try:
            self._write()
        except StoreError as error:
            self._failures += 1
            self._due = self._clock() + FLUSH_SECONDS + pause_after(self._failures)
            if self._failures == 1:
                print(f"lsqctl: {error}; training goes on, metrics wait on the disk", flush=True)
            return False
        if self._failures:
            print("lsqctl: the database is back; nothing was lost", flush=True)
        self._failures = 0
        self._spool.clear()
        self._due = self._clock() + FLUSH_SECONDS
        return True

    def _write(self) -> None:
        """Write everything that waits; what is written waits no more."""
        while self._notes:
            self._store.note(self._lease, self._notes[0].text)
            del self._notes[0]
        if self._measured or self._progress:
            self._store.log_metrics(self._lease, self._measured, progress=self._progress)
            self._measured, self._progress = [], None

    def _keep(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint with the metrics up to it, and forget those swept from the disk."""
        known = self._store.checkpoints(self._lease.run_id)
        self._store.record_checkpoint(
            self._lease,
            checkpoint,
            measured=self._measured,
            forget=[
                *checkpoint.replaces,
                *(one.directory for one in known if not Path(one.directory).exists()),
            ],
        )
        self._measured = []

    def _finish(self, result: Result) -> None:
        try:
            self._patiently(lambda: self._store.finish(self._lease, result))
        except LeaseLost:
            if not self._has_finished():  # or only the answer to an earlier try was lost
                raise

    def _has_finished(self) -> bool:
        attempts = self._patiently(lambda: self._store.detail(self._lease.run_id)).attempts
        return any(
            one.fence == self._lease.fence and one.reason is EndReason.COMPLETED for one in attempts
        )

    def _patiently(self, work: Callable[[], T]) -> T:
        seconds = PATIENCE_LEASES * self._store.lease_seconds
        return patiently(work, seconds=seconds, stop=self._stop, clock=self._clock)
