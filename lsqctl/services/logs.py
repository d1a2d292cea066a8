"""Read the logs of a run's attempts, and follow them while it runs."""

from __future__ import annotations

import codecs
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.errors import DataError, NotFound
from lsqctl.ownership import open_regular, read_regular
from lsqctl.run import ACTIVE_STATES, RunState
from lsqctl.text import sanitize
from lsqctl.worker.messages import log_path

if TYPE_CHECKING:
    from lsqctl.store import Store

POLL_SECONDS = 0.3
_QUIET_POLLS = 2  # so often nothing new is seen before a log counts as read to its end
_ELSEWHERE_POLLS = 20


def read_log(store: Store, run_id: str, run_dir: Path, attempt: int | None = None) -> str:
    """Return the log of an attempt, by default the latest, safe to print."""
    number = attempt or store.runs.detail(run_id).run.attempt
    if not number:
        raise NotFound(f"run {run_id} has not been started; `lsqctl worker` starts queued runs")
    path = log_path(run_dir, number)
    try:
        return _sanitize_log(read_regular(path).decode(errors="replace"))
    except FileNotFoundError:
        raise NotFound(
            f"run {run_id} has no log of attempt {number} here: no file {path}; it lies on the "
            "machine whose worker ran it"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def follow_log(
    store: Store,
    run_id: str,
    run_dir: Path,
    attempt: int = 1,
    *,
    notify: Callable[[str], None] = lambda _: None,
) -> Iterator[str]:
    """Yield log text, safe to print, as it is written, into later attempts, until the run ended.

    A log is left only when the store says that its attempt is over and nothing came for a moment
    after that: a trainer's last words come after it has told the store. ``notify`` hears of a log
    that is not on this machine.
    """
    log, quiet_polls = _LogReader(log_path(run_dir, attempt)), 0
    while True:
        store.ensure_usable()
        run = store.runs.detail(run_id).run  # before the file: what it says, the file has by now
        if chunk := log.read():
            quiet_polls = 0
            yield chunk
            continue
        quiet_polls += 1
        ended = run.attempt > attempt or run.state not in ACTIVE_STATES
        if ended and quiet_polls >= _QUIET_POLLS:
            yield log.flush()
            if run.attempt <= attempt:
                return
            attempt += 1
            log, quiet_polls = _LogReader(log_path(run_dir, attempt)), 0
            yield f"--- attempt {attempt} ---\n"
            continue
        if quiet_polls == _ELSEWHERE_POLLS and run.state is RunState.RUNNING and log.missing:
            notify(f"no log of attempt {attempt} here yet; it lies on the machine of {run.worker}")
        time.sleep(POLL_SECONDS)


class _LogReader:
    """A growing file; a character whose bytes are not all there yet waits for the rest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._line_ended = True

    @property
    def missing(self) -> bool:
        """Whether there is no such file."""
        return not self._path.exists()

    def read(self) -> str:
        """Return what was written since the last time.  Raises DataError."""
        try:
            with os.fdopen(open_regular(self._path), "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise DataError(f"{self._path} cannot be read: {error.strerror}") from None
        self._offset += len(data)
        text = _sanitize_log(self._decode(data))
        if text:
            self._line_ended = text.endswith("\n")
        return text

    def flush(self) -> str:
        """Return what ends the log: half a character, and a line's end where there is none."""
        half = self._decode(b"", True)
        return half + ("" if self._line_ended and not half else "\n")


def _sanitize_log(text: str) -> str:
    r"""Return a log that moves no cursor; ends of lines and tabs stay as they are.

    >>> _sanitize_log("a\tb\r\n\x1b]0;title\x07")
    'a\tb\n\\x1b]0;title\\x07'
    """
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(map(sanitize, line.split("\t"))) for line in lines)
