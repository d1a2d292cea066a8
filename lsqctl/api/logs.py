"""Read the logs of a run's attempts, and follow them while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.errors import NotFound
from lsqctl.run import UNFINISHED
from lsqctl.worker.order import log_path

if TYPE_CHECKING:
    from lsqctl.store import Store

POLL_SECONDS = 0.3


def read_log(store: Store, run_id: str, folder: Path, attempt: int | None = None) -> str:
    """Return the log of an attempt, by default the latest."""
    number = attempt or store.detail(run_id).run.attempt
    if not number:
        raise NotFound(f"run {run_id} has not been started; `lsqctl worker` starts queued runs")
    path = log_path(folder, number)
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        raise NotFound(
            f"run {run_id} has no log of attempt {number} here: no file {path}; it lies on the "
            "machine whose worker ran it"
        ) from None


def follow_log(store: Store, run_id: str, folder: Path) -> Iterator[str]:
    """Yield log text as it is written, into later attempts, until the run has ended."""
    number, offset = 1, 0
    while True:
        run = store.detail(run_id).run
        piece, offset = _read_from(log_path(folder, number), offset)
        if piece:
            yield piece
        elif run.attempt > number:
            number, offset = number + 1, 0
            yield f"--- attempt {number} ---\n"
        elif run.state not in UNFINISHED:
            return
        else:
            time.sleep(POLL_SECONDS)


def _read_from(path: Path, offset: int) -> tuple[str, int]:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return "", offset
    return data.decode(errors="replace"), offset + len(data)
