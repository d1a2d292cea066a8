"""Named moments at which a test may kill, fail or delay a process; else they do nothing.

``LSQCTL_FAILPOINT=NAME:ACTION[:NTH]``, several separated by commas. An action is ``kill`` (SIGKILL
to this process), ``raise`` (an OSError), ``term`` (SIGTERM to this process) or ``sleep:SECONDS``.
It fires at the NTH time that a process gets there (1 by default), and once in each process;
``LSQCTL_FAILPOINT_ONCE=FOLDER`` makes that once in all processes that share the folder.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lsqctl.errors import UsageError
from lsqctl.settings import failpoint_variables
from lsqctl.text import did_you_mean

FAILPOINTS: Mapping[str, str] = {
    "submit.before-commit": "every row of a submission is written, none is committed",
    "submit.after-commit": "the runs are stored, their ids not yet printed",
    "claim.before-commit": "the run is marked as taken, not yet committed",
    "worker.claimed": "the run is the worker's, its child not yet launched",
    "worker.launched": "the child is started",
    "worker.before-renew": "a lease is about to be renewed",
    "worker.after-renew": "a lease was renewed",
    "worker.child-ended": "the child has ended, which nobody has stored yet",
    "worker.before-release": "the run of a preempted child is about to be requeued",
    "worker.end-stored": "the end of the child is stored",
    "reap.before-expire": "a dead attempt was found, and not yet ended",
    "end.before-commit": "an attempt was ended and its run requeued, not yet committed",
    "child.started": "the child has its spec and has done nothing",
    "child.before-environment": "the database is open, the environment not yet stored",
    "child.environment-stored": "the environment is stored, nothing is trained",
    "resume.before-commit": "what lies after the checkpoint is deleted, not yet committed",
    "train.calibrated": "the checkpoint right after calibration is recorded",
    "train.step": "an optimizer step is done",
    "evaluate.batch": "a batch of the evaluation is about to be counted",
    "metrics.before-commit": "a batch of metrics is written, not yet committed",
    "checkpoint.begin": "a checkpoint is due, nothing of it is written",
    "checkpoint.before-manifest": "tensors and state are on the disk, the manifest is not",
    "checkpoint.after-manifest": "the folder is complete, under its temporary name",
    "checkpoint.between-renames": "the folder of the same step is moved aside, none in its place",
    "checkpoint.renamed": "the folder has its name, the database does not know of it",
    "checkpoint.before-commit": "the checkpoint's row is written, not yet committed",
    "checkpoint.recorded": "the checkpoint's row is committed, older ones are not yet removed",
    "finish.before": "everything is trained and counted, nothing of the end is stored",
    "finish.before-result": "the run is marked as succeeded, its result not written",
    "finish.before-commit": "run and result are written, not yet committed",
    "finish.after": "the result is stored, the child has not yet said so",
    "rung.before-pause": "a child has come to its rung, which nobody has stored yet",
    "rung.before-commit": "a run is paused and its rung perhaps decided, not yet committed",
    "import.before-move": "the files of taken-in runs are laid out, under a temporary name",
    "import.before-commit": "files and rows of taken-in runs are written, not yet committed",
    "cluster.before-submit": "a pilot is wanted, its scheduler not yet asked for one",
    "cluster.after-submit": "a scheduler has a pilot, whose job id nobody has been told",
}
_ACTIONS = ("kill", "raise", "term", "sleep")


@dataclass(slots=True)
class _ArmedFailpoint:
    """What is to happen at one failpoint, and how often this process was there."""

    name: str
    action: str
    seconds: float
    nth: int
    once_dir: Path | None
    times_reached: int = 0

    def reach(self) -> None:
        self.times_reached += 1
        if self.times_reached != self.nth or (
            self.once_dir and not _is_first(self.once_dir / self.name)
        ):
            return
        match self.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "term":
                os.kill(os.getpid(), signal.SIGTERM)
            case "sleep":
                time.sleep(self.seconds)
            case _:
                # without a number: an EIO would be answered by a second try
                raise OSError(f"failpoint {self.name}")


def failpoint(name: str) -> None:
    """Do what the environment says for this moment, which is nothing unless it names it."""
    if armed := armed_failpoints().get(name):
        armed.reach()


@cache
def armed_failpoints() -> Mapping[str, _ArmedFailpoint]:
    """Return what is armed, by name, read once a process.  Raises UsageError."""
    text, once_dir = failpoint_variables()
    parsed = [_parse(entry.strip(), once_dir) for entry in text.split(",") if entry.strip()]
    return {armed.name: armed for armed in parsed}


def _parse(text: str, once_dir: Path | None) -> _ArmedFailpoint:
    name, *parts = text.split(":")
    if name not in FAILPOINTS:
        raise UsageError(
            f"LSQCTL_FAILPOINT: no failpoint is named `{name}`{did_you_mean(name, FAILPOINTS)}"
        )
    action = parts.pop(0) if parts else ""
    try:
        seconds = float(parts.pop(0)) if action == "sleep" else 0.0
        nth = int(parts.pop(0)) if parts else 1
    except (IndexError, ValueError):
        parts = ["?"]
    if parts or action not in _ACTIONS or seconds < 0 or nth < 1:
        raise UsageError(
            f"LSQCTL_FAILPOINT: `{text}` is not NAME:kill, NAME:raise, NAME:term or "
            "NAME:sleep:SECONDS, with :NTH after it for a later time than the first"
        )
    return _ArmedFailpoint(name, action, seconds, nth, once_dir)


def _is_first(marker: Path) -> bool:
    """Return whether no process was here before."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True
