"""Write an attempt's facts to the store in batches: one commit a second, not one a step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from lsqctl.errors import LeaseLost, StoreError
from lsqctl.facts import Checkpoint, Fact, Metric, Note, Progress, Result, Resumed
from lsqctl.failpoint import failpoint
from lsqctl.run import Lease

if TYPE_CHECKING:
    from lsqctl.store import Store

FLUSH_SECONDS = 1.0


class Recorder:
    """Buffers metrics and progress; a checkpoint or a result takes the buffer along.

    A checkpoint's row and the metrics up to it go in one transaction, so a resumed attempt finds
    exactly the points that its state has seen.
    """

    def __init__(
        self, store: Store, lease: Lease, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._lease = lease
        self._clock = clock
        self._metrics: list[Metric] = []
        self._progress: Progress | None = None
        self._flushed = clock()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what is left; when the attempt is failing, never hide why."""
        if kind is None:
            self.flush()
        elif not issubclass(kind, LeaseLost | StoreError):
            with contextlib.suppress(LeaseLost, StoreError):
                self.flush()

    def record(self, fact: Fact) -> None:
        """Take one fact; raises LeaseLost when the attempt no longer owns its run."""
        match fact:
            case Metric():
                self._metrics.append(fact)
            case Progress():
                self._progress = fact
            case Resumed():
                self._store.resume_at(self._lease, fact.step)
            case Note():
                print(f"lsqctl: {fact.text}", flush=True)
                self._store.note(self._lease, fact.text)
            case Checkpoint():
                self._keep(fact)
            case Result():
                self.flush()
                failpoint("finish.before")
                self._store.finish(self._lease, fact)
                failpoint("finish.after")
        if self._clock() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the buffer."""
        progress, self._progress = self._progress, None
        metrics = self._take()
        if metrics or progress:
            self._store.log_metrics(self._lease, metrics, progress=progress)
        self._flushed = self._clock()

    def _keep(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint with the metrics up to it, and forget those swept from the disk."""
        known = self._store.checkpoints(self._lease.run_id)
        self._store.record_checkpoint(
            self._lease,
            checkpoint,
            metrics=self._take(),
            forget=[
                *checkpoint.replaces,
                *(one.directory for one in known if not Path(one.directory).exists()),
            ],
        )

    def _take(self) -> list[Metric]:
        metrics, self._metrics = self._metrics, []
        return metrics
