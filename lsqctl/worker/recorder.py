"""Write an attempt's events to the store in batches; what it does not take waits in a spool file.

A database that is locked, full or away does not stop the training at once: metrics wait, in memory
and on the disk. A checkpoint, the start and the finish are waited with for the database.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from lsqctl.errors import LeaseLost, StoreError, UnusableDatabase
from lsqctl.events import (
    Checkpoint,
    Compiled,
    KernelUse,
    LogMessage,
    Measurement,
    Metric,
    Paused,
    Progress,
    QuantizerStats,
    Result,
    Resumed,
    TrainingEvent,
    TrainingStarted,
)
from lsqctl.failpoint import failpoint
from lsqctl.ownership import read_regular
from lsqctl.retry import backoff_delay
from lsqctl.run import EndReason, Lease
from lsqctl.worker.messages import log_line
from lsqctl.worker.retry import retry_store

if TYPE_CHECKING:
    from lsqctl.store import Store

T = TypeVar("T")

FLUSH_SECONDS = 1.0


class _EpochLog:
    """One line of the log for each epoch: what its evaluation counted, once that is over."""

    def __init__(self) -> None:
        self._values: dict[str, float] = {}
        self._evaluated = False

    def add(self, measurement: Measurement) -> None:
        """Keep what the line tells: the epoch's loss, and all that was counted in evaluation."""
        if not isinstance(measurement, Metric):
            return
        if measurement.split != "train":
            self._values[f"{measurement.split} {measurement.name}"] = measurement.value
            self._evaluated = True
        elif measurement.name == "epoch_loss":
            self._values["train loss"] = measurement.value

    def print(self, progress: Progress) -> None:
        """Print the line, where an epoch has ended."""
        if self._evaluated:
            values = ", ".join(f"{name} {value:.4g}" for name, value in self._values.items())
            epoch = f"epoch {progress.epoch}/{progress.epochs}"
            log_line(f"{epoch}, step {progress.step}: {values}")
            self._values, self._evaluated = {}, False


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
        self._measurements: list[Measurement] = []
        self._progress: Progress | None = None
        self._log_messages: list[LogMessage] = []
        self._epoch_log = _EpochLog()
        self._failures = 0
        self._next_flush = clock() + FLUSH_SECONDS

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write what is left, and never hide why an attempt is failing.

        What the database does not take stays in the spool for the attempt that goes on.
        """
        stored = False
        try:
            if exc_type is None or not issubclass(exc_type, LeaseLost):
                stored = self._flush()
        except (LeaseLost, UnusableDatabase):
            if exc_type is None:
                raise
        finally:
            self._spool.close(keep=not stored)

    def record(self, event: TrainingEvent) -> None:
        """Take one event; raises LeaseLost when the attempt no longer owns its run.

        Raises StoreError when the database stays away at the start, a checkpoint or the finish,
        and UnusableDatabase at once.
        """
        match event:
            case Metric() | QuantizerStats():
                self._spool.append(event)
                self._measurements.append(event)
                self._epoch_log.add(event)
            case Progress():
                self._progress = event
                self._epoch_log.print(event)
            case Resumed():
                self._retry(partial(self._resume, event.step))
            case TrainingStarted():
                self._retry(partial(self._store.metrics.start_at, self._lease, event.step))
            case Compiled() | KernelUse():
                self._record_environment(event)
            case LogMessage():
                log_line(event.text)
                self._log_messages.append(event)
            case Checkpoint():
                self._retry(partial(self._record_checkpoint, event))
                self._spool.clear()
            case Paused():
                self._retry(self._write_pending)
                self._spool.clear()
            case Result():
                self._retry(self._write_pending)
                self._spool.clear()
                failpoint("finish.before")
                self._finish(event)
                failpoint("finish.after")
        if self._clock() >= self._next_flush:
            self._flush()

    def _record_environment(self, event: Compiled | KernelUse) -> None:
        environment: dict[str, object]
        match event:
            case Compiled():
                environment = {
                    "compile": event.compiled,
                    "channels_last": event.channels_last,
                    "precision": event.precision,
                    "imitated": event.imitated,
                }
            case KernelUse():
                environment = {
                    "kernel": event.kernel,
                    "float_layers": dict(event.float_layers),
                    "evaluation": event.evaluation,
                }
        self._retry(lambda: self._store.queue.record_environment(self._lease, environment))

    def _resume(self, step: int | None) -> None:
        """Go on from a step: what lies after it is deleted, what was spooled up to it kept."""
        measurements = [
            measurement
            for measurement in self._spool.pending_from_previous()
            if step is not None and measurement.step <= step
        ]
        self._store.metrics.resume_at(self._lease, step)
        if measurements:
            self._store.metrics.log(self._lease, measurements)
        self._spool.remove_previous()

    def _flush(self) -> bool:
        """Write what waits; return whether the database took it, else when to try next is set.

        Raises LeaseLost, and UnusableDatabase, for which to wait is in vain.
        """
        try:
            self._write_pending()
        except UnusableDatabase:
            raise
        except StoreError as error:
            self._failures += 1
            self._next_flush = self._clock() + FLUSH_SECONDS + backoff_delay(self._failures)
            if self._failures == 1:
                log_line(f"{error}; training goes on, metrics wait on the disk")
            return False
        if self._failures:
            log_line("the database is back; nothing was lost")
        self._failures = 0
        self._spool.clear()
        self._next_flush = self._clock() + FLUSH_SECONDS
        return True

    def _write_pending(self) -> None:
        """Write everything that waits; what is written waits no more."""
        while self._log_messages:
            self._store.queue.log_event(self._lease, self._log_messages[0].text)
            del self._log_messages[0]
        if self._measurements or self._progress:
            self._store.metrics.log(self._lease, self._measurements, progress=self._progress)
            self._measurements, self._progress = [], None

    def _record_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint with the metrics up to it, and delete rows of those that are gone."""
        stored = self._store.checkpoints.list(self._lease.run_id)
        self._store.checkpoints.record(
            self._lease,
            checkpoint,
            measured=self._measurements,
            replaced=[
                *checkpoint.replaces,
                *(row.directory for row in stored if not Path(row.directory).exists()),
            ],
        )
        self._measurements = []

    def _finish(self, result: Result) -> None:
        try:
            self._retry(lambda: self._store.queue.finish(self._lease, result))
        except LeaseLost:
            if not self._retry(lambda: is_finished_by(self._store, self._lease)):
                raise

    def _retry(self, work: Callable[[], T]) -> T:
        return retry_store(
            work, lease_seconds=self._store.lease_seconds, stop=self._stop, clock=self._clock
        )


_SPOOL_NAME = "spool-{}.jsonl"


class Spool:
    """The file of one attempt. Opened at once: a later attempt that takes over removes it, and
    what a zombie still writes then goes nowhere.

    A file that cannot be written is no reason to stop training: the metrics are in memory too.
    """

    def __init__(self, run_dir: Path, attempt: int) -> None:
        self.path = run_dir / _SPOOL_NAME.format(attempt)
        self._run_dir, self._attempt = run_dir, attempt
        self._fd: int | None = None
        self._has_lines = False
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self.path, flags, 0o600)

    def append(self, measurement: Measurement) -> None:
        """Append one line: a list for a metric, an object for a quantizer's numbers."""
        line = json.dumps(
            list(astuple(measurement)) if isinstance(measurement, Metric) else asdict(measurement)
        )
        self._has_lines = True
        if self._fd is not None:
            with contextlib.suppress(OSError):  # a line cut short is passed over when read
                os.write(self._fd, f"\n{line}\n".encode())

    def clear(self) -> None:
        """Empty the file: the database has everything."""
        if self._fd is not None and self._has_lines:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
        self._has_lines = False

    def close(self, *, keep: bool) -> None:
        """Close the file, and remove it unless what it holds is still wanted."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if not (keep and self._has_lines):
            with contextlib.suppress(OSError):  # a disk that only reads by now
                self.path.unlink(missing_ok=True)

    def pending_from_previous(self) -> list[Measurement]:
        """Return what earlier attempts could not store, oldest first."""
        return [measurement for path in self._previous_paths() for measurement in _read_spool(path)]

    def remove_previous(self) -> None:
        """Remove the files of earlier attempts."""
        for path in self._previous_paths():
            path.unlink(missing_ok=True)

    def _previous_paths(self) -> list[Path]:
        earlier = ((self._run_dir / _SPOOL_NAME.format(n)) for n in range(1, self._attempt))
        return [path for path in earlier if path.exists()]


def ingest_spool(store: Store, lease: Lease, run_dir: Path) -> None:
    """Store what an attempt's trainer left in its spool, and remove it.  Raises LeaseLost.

    On a disk that fails, or only reads by now, it is left to the attempt that goes on.
    """
    path = run_dir / _SPOOL_NAME.format(lease.attempt)
    with contextlib.suppress(OSError):
        if measurements := list(_read_spool(path)):
            store.metrics.log(lease, measurements)
        path.unlink()


def _read_spool(path: Path) -> Iterator[Measurement]:
    for line in read_regular(path).decode(errors="replace").splitlines():
        with contextlib.suppress(ValueError, TypeError):  # the last line of a process killed in it
            values = json.loads(line)
            if isinstance(values, dict):
                yield QuantizerStats(**values)
            else:
                name, split, step, value = values
                yield Metric(str(name), str(split), int(step), float(value))


def is_finished_by(store: Store, lease: Lease) -> bool:
    """Return whether this very lease has stored its result, and only the answer was lost."""
    return any(
        attempt.fence == lease.fence and attempt.reason is EndReason.COMPLETED
        for attempt in store.runs.detail(lease.run_id).attempts
    )
