"""What a run measured and the database does not hold yet, kept in a file until it does.

Every number goes into ``spool-<attempt>.jsonl`` in the run's folder the moment it is measured, and
the file is emptied when the database has them. So neither a process that is killed nor a database
that is locked, full or away loses any: the supervisor takes them in before it ends the attempt, or
else the next attempt those up to the step that it goes on from. Both do so under their fence.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, astuple
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.facts import Measurement, Metric, QuantizerStats
from lsqctl.run import Lease

if TYPE_CHECKING:
    from lsqctl.store import Store

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
        line = json.dumps(list(astuple(measurement)) if isinstance(measurement, Metric) else asdict(measurement))
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
    """Store what an attempt's trainer left in its spool, and remove it.  Raises LeaseLost."""
    path = run_dir / _SPOOL_NAME.format(lease.attempt)
    with contextlib.suppress(FileNotFoundError):
        if measurements := list(_read_spool(path)):
            store.log_metrics(lease, measurements)
        path.unlink()


def _read_spool(path: Path) -> Iterator[Measurement]:
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, TypeError):  # the last line of a process killed in it
            values = json.loads(line)
            if isinstance(values, dict):
                yield QuantizerStats(**values)
            else:
                name, split, step, value = values
                yield Metric(str(name), str(split), int(step), float(value))
