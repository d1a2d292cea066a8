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

from lsqctl.facts import Measured, Metric, QuantizerStats
from lsqctl.run import Lease

if TYPE_CHECKING:
    from lsqctl.store import Store

_NAME = "spool-{}.jsonl"


class Spool:
    """The file of one attempt. Opened at once: a later attempt that takes over removes it, and
    what a zombie still writes then goes nowhere.

    A file that cannot be written is no reason to stop training: the metrics are in memory too.
    """

    def __init__(self, run_dir: Path, attempt: int) -> None:
        self.path = run_dir / _NAME.format(attempt)
        self._run_dir, self._attempt = run_dir, attempt
        self._fd: int | None = None
        self._holds_some = False
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self.path, flags, 0o600)

    def keep(self, one: Measured) -> None:
        """Append one line: a list for a metric, an object for a quantizer's numbers."""
        line = json.dumps(list(astuple(one)) if isinstance(one, Metric) else asdict(one))
        self._holds_some = True
        if self._fd is not None:
            with contextlib.suppress(OSError):  # a line cut short is passed over when read
                os.write(self._fd, f"\n{line}\n".encode())

    def clear(self) -> None:
        """Empty the file: the database has everything."""
        if self._fd is not None and self._holds_some:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
        self._holds_some = False

    def close(self, *, keep: bool) -> None:
        """Close the file, and remove it unless what it holds is still wanted."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if not (keep and self._holds_some):
            self.path.unlink(missing_ok=True)

    def left_by_others(self) -> list[Measured]:
        """Return what earlier attempts could not store, oldest first."""
        return [one for path in self._others() for one in _read(path)]

    def forget_others(self) -> None:
        """Remove the files of earlier attempts."""
        for path in self._others():
            path.unlink(missing_ok=True)

    def _others(self) -> list[Path]:
        earlier = ((self._run_dir / _NAME.format(n)) for n in range(1, self._attempt))
        return [path for path in earlier if path.exists()]


def take_in(store: Store, lease: Lease, run_dir: Path) -> None:
    """Store what an attempt's trainer left in its spool, and remove it.  Raises LeaseLost."""
    path = run_dir / _NAME.format(lease.attempt)
    with contextlib.suppress(FileNotFoundError):
        if measured := list(_read(path)):
            store.log_metrics(lease, measured)
        path.unlink()


def _read(path: Path) -> Iterator[Measured]:
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, TypeError):  # the last line of a process killed in it
            values = json.loads(line)
            if isinstance(values, dict):
                yield QuantizerStats(**values)
            else:
                name, split, step, value = values
                yield Metric(str(name), str(split), int(step), float(value))
