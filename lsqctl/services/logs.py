"""Read the logs of a run's attempts, and follow them while it runs."""

from __future__ import annotations

import codecs
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lsqctl.errors import DataError, NotFound
from lsqctl.ownership import open_regular
from lsqctl.run import ACTIVE_STATES, RECORDED, RunState
from lsqctl.text import sanitize
from lsqctl.worker.messages import log_path

if TYPE_CHECKING:
    from lsqctl.run import RunDetail
    from lsqctl.store import Store

POLL_SECONDS = 0.3
_QUIET_POLLS = 2  # so often nothing new is seen before a log counts as read to its end
_ELSEWHERE_POLLS = 20
_PIECE_BYTES = 1 << 20


def read_log(
    store: Store,
    run_id: str,
    run_dir: Path,
    attempt: int | None = None,
    *,
    tail_lines: int | None = None,
) -> Iterator[str]:
    """Yield the log of an attempt, by default the latest, safe to print, in pieces.

    ``tail_lines`` leaves out all but so many of its last lines. However long the log is, no more
    than a piece of it is in memory. Raises NotFound where there is no log here, and DataError.
    """
    number = attempt or store.runs.detail(run_id).run.attempt
    if not number:
        raise NotFound(f"run {run_id} has not been started; `lsqctl worker` starts queued runs")
    log = _LogReader(log_path(run_dir, number), tail_lines)
    if log.missing:
        detail = _unless_recorded(store.runs.detail(run_id))
        raise NotFound(
            f"run {run_id} has no log of attempt {number} here: no file {log.path}; it ran on "
            f"{detail.host_of(number) or 'another machine'}"
        )
    while piece := log.read():
        yield piece
    yield log.flush(end_line=False)


def follow_log(
    store: Store,
    run_id: str,
    run_dir: Path,
    attempt: int = 1,
    *,
    tail_lines: int | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> Iterator[str]:
    """Yield log text, safe to print, as it is written, into later attempts, until the run ended.

    A log is left only when the store says that its attempt is over and nothing came for a moment
    after that: a trainer's last words come after it has told the store. ``tail_lines`` leaves out
    all but the last lines of what the first log holds by now. ``notify`` hears of a log that is
    not on this machine. Raises NotFound for a recorded run.
    """
    log, quiet_polls = _LogReader(log_path(run_dir, attempt), tail_lines), 0
    while True:
        store.ensure_usable()
        # before the file: what the store says, the file has by now
        run = _unless_recorded(store.runs.detail(run_id)).run
        if piece := log.read():
            quiet_polls = 0
            yield piece
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


def _unless_recorded(detail: RunDetail) -> RunDetail:
    """Return it; raises NotFound for a recorded run, which has no log."""
    if detail.run.origin == RECORDED:
        raise NotFound(
            f"run {detail.run.id} has no log here: it was recorded of {detail.recorded_of()}, "
            "which lsqctl did not run; what that printed is where it ran"
        )
    return detail


class _LogReader:
    """A growing file, by pieces; a character whose bytes are not all there waits for the rest."""

    def __init__(self, path: Path, tail_lines: int | None = None) -> None:
        self.path = path
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._line_ended = True
        self._held_back = ""  # a carriage return, until it is known whether a line's end follows
        self._offset = 0
        if tail_lines is not None and not self.missing:
            with self._open() as file:
                self._offset = _tail_offset(file, tail_lines)

    @property
    def missing(self) -> bool:
        """Whether there is no such file."""
        return not os.path.lexists(self.path)

    def read(self) -> str:
        """Return the next piece; nothing at the end of what is there.  Raises DataError."""
        if self.missing:
            return ""
        with self._open() as file:
            file.seek(self._offset)
            data = file.read(_PIECE_BYTES)
        self._offset += len(data)
        text = self._held_back + self._decode(data)
        self._held_back = "\r" if text.endswith("\r") else ""
        text = _sanitize_log(text.removesuffix(self._held_back))
        if text:
            self._line_ended = text.endswith("\n")
        return text or (self.read() if data else "")

    def flush(self, *, end_line: bool = True) -> str:
        """Return what ends the log: half a character, and a line's end where there is none."""
        half = _sanitize_log(self._held_back + self._decode(b"", True))
        ended = self._line_ended and not half
        return half + ("" if ended or not end_line else "\n")

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        try:
            with os.fdopen(open_regular(self.path), "rb") as file:
                yield file
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}") from None


def _tail_offset(file: BinaryIO, lines: int) -> int:
    """Return where the last ``lines`` lines of a file begin; it is read from its end."""
    end = position = file.seek(0, os.SEEK_END)
    missing = lines
    while position > 0:
        start = max(0, position - _PIECE_BYTES)
        file.seek(start)
        block = file.read(position - start)
        if position == end and block.endswith(b"\n"):
            missing += 1  # the one that ends the last line
        n_ends = block.count(b"\n")
        if n_ends >= missing:
            at = len(block)
            for _ in range(missing):
                at = block.rindex(b"\n", 0, at)
            return start + at + 1
        missing -= n_ends
        position = start
    return 0


def _sanitize_log(text: str) -> str:
    r"""Return a log that moves no cursor; ends of lines and tabs stay as they are.

    >>> _sanitize_log("a\tb\r\n\x1b]0;title\x07")
    'a\tb\n\\x1b]0;title\\x07'
    """
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(map(sanitize, line.split("\t"))) for line in lines)
