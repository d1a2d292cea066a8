"""Why an attempt ended, in one line: from what it raised, or from how its process died."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

from lsqctl.errors import (
    CannotCompile,
    DataError,
    Diverged,
    LeaseLost,
    Preempted,
    RankFailed,
    RecipeError,
    StoreError,
    UnusableDatabase,
    UsageError,
)
from lsqctl.recipe import Recipe
from lsqctl.run import EXIT_REASONS, EndReason
from lsqctl.text import format_bytes, sanitize
from lsqctl.worker.messages import ExitReport

_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")
# torch's CPU allocator raises a plain RuntimeError
_OOM_PHRASES = ("DefaultCPUAllocator", "not enough memory", "out of memory")


def end_reason_of(error: Exception, *, stopped: bool = False) -> EndReason:
    """Return the end reason that an error means; the first row that fits decides.

    ``stopped`` says that the attempt was asked to stop. A signal to a whole group of processes ends
    compilers and decoders, too: what fails for want of them then is the stop.
    """
    import torch

    from lsqctl.training.image_folder import DecoderEnded

    if stopped and isinstance(error, CannotCompile | DecoderEnded):
        return EndReason.PREEMPTED

    table: tuple[tuple[EndReason, tuple[type[Exception], ...]], ...] = (
        (EndReason.PREEMPTED, (LeaseLost, Preempted, UnusableDatabase)),
        (EndReason.DIVERGED, (Diverged,)),
        (EndReason.OOM, (torch.OutOfMemoryError, MemoryError)),
        (EndReason.DATA, (DataError,)),
        (EndReason.RECIPE, (RecipeError, UsageError)),
        (EndReason.INFRA, (RankFailed, StoreError, CannotCompile, OSError, torch.AcceleratorError)),
    )
    if isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _OOM_PHRASES):
        return EndReason.OOM
    matching = (reason for reason, types in table if isinstance(error, types))
    return next(matching, EndReason.CODE)


def error_message(error: Exception, reason: EndReason) -> str:
    """Return what a person should read of an error: its first line, and what to do."""
    first = sanitize((str(error).splitlines() or [""])[0])  # a file's name may be no text
    match reason:
        case EndReason.OOM:
            details = "; ".join([first or "out of memory", *getattr(error, "__notes__", [])])
            return f"{details}; raise train.accumulate, or make data.batch_size smaller"
        case EndReason.CODE:
            return f"{type(error).__name__}: {first}"
        case EndReason.PREEMPTED if isinstance(error, CannotCompile | OSError):
            return "asked to stop; the run goes on from its last checkpoint"
    return first or type(error).__name__


@contextlib.contextmanager
def annotate_oom(recipe: Recipe, device: str) -> Iterator[None]:
    """Add to an error of memory what was tried: the batch sizes and the most bytes held."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if end_reason_of(error) is EndReason.OOM:
            error.add_note(_memory_note(recipe, device))
        raise


def _memory_note(recipe: Recipe, device: str) -> str:
    import torch

    from lsqctl.training.runtime import peak_memory_bytes

    peak = peak_memory_bytes(torch.device(device))
    data = recipe.data
    return (
        f"data.batch_size is {data.batch_size} (evaluation {data.eval_batch_size}), "
        f"peak memory {peak} bytes on {device}"
    )


class MemoryMonitor:
    """What is known of a process's memory when it is killed without a word.

    ``sample`` is cheap: call it while the process lives.
    """

    def __init__(self) -> None:
        self._kills = oom_kills()
        self._peak_kib = 0

    def sample(self, pid: int | None) -> None:
        """Note the most memory that the process has held so far."""
        with contextlib.suppress(OSError):
            for line in (_PROC / str(pid) / "status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self._peak_kib = max(self._peak_kib, int(line.split()[1]))

    def explain_sigkill(self) -> str:
        """Return why the process was killed by SIGKILL, as far as the kernel tells."""
        peak = (
            f"; its peak memory was {format_bytes(1024 * self._peak_kib)}" if self._peak_kib else ""
        )
        if oom_kills() > self._kills:
            return f"killed by the kernel: the machine or its cgroup ran out of memory{peak}"
        return f"killed by SIGKILL: by hand, or the machine ran out of memory{peak}"


def oom_kills(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Return how many processes of our cgroup the kernel killed for memory; 0 if it cannot tell."""
    try:
        groups = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return 0
    return max((_oom_kills_of(line, cgroups) for line in groups), default=0)


def _oom_kills_of(group: str, cgroups: Path) -> int:
    """Read the counter of one line of /proc/self/cgroup: version 2's, or 1's for memory."""
    _, controllers, path = group.split(":", 2)
    if not controllers:
        file = cgroups / path.lstrip("/") / "memory.events"
    elif "memory" in controllers.split(","):
        file = cgroups / "memory" / path.lstrip("/") / "memory.oom_control"
    else:
        return 0
    with contextlib.suppress(OSError, ValueError):
        pairs = (line.split() for line in file.read_text().splitlines())
        return next((int(value) for key, value in pairs if key == "oom_kill"), 0)
    return 0


def report_from_exit_code(code: int, log: Path, memory: MemoryMonitor) -> ExitReport:
    """Explain a child that said nothing."""
    if code == -signal.SIGKILL:
        return ExitReport(EndReason.INFRA, memory.explain_sigkill())
    if code < 0:
        return ExitReport(EndReason.INFRA, f"killed by {signal_name(-code)}; see {log}")
    return ExitReport(EXIT_REASONS.get(code, EndReason.CODE), f"exit code {code}; see {log}")


def signal_name(number: int) -> str:
    """Return a signal's name, or its number where it has none, as most real-time ones."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
