"""What a supervisor tells its child, and what the child tells back: one JSON line each way.

The spec goes down the child's standard input, which then stays open: its end-of-file means that
the supervisor is gone.  The child's exit report comes up a second pipe.  Nothing secret (the
database's URL may hold a password) is ever on a command line.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lsqctl.run import Claim, EndReason, Lease
from lsqctl.settings import CompileMode, Settings
from lsqctl.worker.slots import Allocation


@dataclass(frozen=True, slots=True)
class AttemptSpec:
    """Everything a child needs to execute one attempt."""

    run_id: str
    attempt: int
    fence: str
    db_url: str
    lease_seconds: float
    run_dir: str
    data_dir: str
    device: str
    threads: int
    supervisor_pid: int
    ranks: int = 1  # how many processes share the run, each on a GPU, or in a slot of a CPU
    compile: CompileMode = "auto"
    trackers: tuple[str, ...] = ()

    @property
    def lease(self) -> Lease:
        """The attempt's right to write."""
        return Lease(self.run_id, self.attempt, self.fence)

    def to_line(self) -> str:
        """Return the spec as one line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> AttemptSpec:
        """Read what ``to_line`` wrote."""
        values = json.loads(line)
        return cls(**values | {"trackers": tuple(values["trackers"])})


@dataclass(frozen=True, slots=True)
class ExitReport:
    """Why a child ends, as it sees it.

    ``ends_worker``: it could not use the database, and no other child of this worker can.
    """

    reason: EndReason
    message: str
    ends_worker: bool = False

    @property
    def is_in_order(self) -> bool:
        """Whether nothing went wrong: it has finished, paused, or saved its state."""
        return self.reason in (EndReason.COMPLETED, EndReason.RUNG, EndReason.PREEMPTED)

    def to_line(self) -> str:
        """Return the report as one line of JSON, at most a pipe's buffer long."""
        return json.dumps(asdict(self) | {"message": self.message[:4000]}) + "\n"

    @classmethod
    def from_line(cls, line: str) -> ExitReport:
        """Read what ``to_line`` wrote."""
        data = json.loads(line)
        return cls(EndReason(data["reason"]), data["message"], data["ends_worker"])


def attempt_spec(
    claim: Claim, allocation: Allocation, settings: Settings, trackers: tuple[str, ...] = ()
) -> AttemptSpec:
    """Return what a child needs to know to execute a claim in its allocation."""
    run = claim.run
    data_dir = settings.data_dir_of(claim.provenance.get("data_dir"))
    return AttemptSpec(
        run_id=run.id,
        attempt=claim.lease.attempt,
        fence=claim.lease.fence,
        db_url=settings.db_url,
        lease_seconds=settings.lease_seconds,
        run_dir=str(settings.run_dir(run.id)),
        data_dir=str(data_dir),
        device=allocation.device,
        threads=int(claim.pinned_environment.get("threads", allocation.threads // run.gpus)),
        supervisor_pid=os.getpid(),
        ranks=run.gpus,
        compile=settings.compile,
        trackers=trackers,
    )


def log_path(run_dir: Path, attempt: int) -> Path:
    """Return the log file of one attempt."""
    return run_dir / f"attempt-{attempt}.log"


def log_line(text: str) -> None:
    """Print a line into the attempt's log; where its disk takes none, the attempt goes on."""
    with suppress(OSError):
        print(f"lsqctl: {text}", flush=True)


def meeting_file(spec: AttemptSpec) -> Path:
    """Return the file by which the ranks of an attempt find each other."""
    return Path(spec.run_dir) / f"ranks-{spec.attempt}"
