"""The places where attempts run: GPUs, or shares of the CPU's cores.  Never imports torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lsqctl.errors import UsageError


@dataclass(frozen=True, slots=True)
class Slot:
    """One place for one attempt.

    ``device`` is what the child calls it; ``visible`` is the GPU it may see (None on a CPU).
    """

    index: int
    device: str
    threads: int
    visible: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What the child's environment needs for this slot, set before torch is imported."""
        threads = str(self.threads)
        variables = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if self.visible is not None:
            variables["CUDA_VISIBLE_DEVICES"] = self.visible
            variables["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        return variables


def make_slots(device: str, count: int | None) -> list[Slot]:
    """Return the slots for ``auto``, ``cpu``, ``cuda`` (every GPU) or ``cuda:0,2``.

    ``count`` slots share each CPU or GPU; by default one.  Threads are the cores divided among
    all slots, at least one.
    """
    if count is not None and not 1 <= count <= 256:
        raise UsageError(f"--slots must be 1 to 256, got {count}")
    gpus = _gpus(device)
    places: list[str | None] = [*gpus] if gpus else [None]
    total = len(places) * (count or 1)
    threads = max(1, cpu_cores() // total)
    return [
        Slot(index, "cuda" if gpu is not None else "cpu", threads, gpu)
        for index, gpu in enumerate(gpu for gpu in places for _ in range(count or 1))
    ]


def cpu_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus(device: str) -> list[str]:
    kind, _, picked = device.partition(":")
    present = sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    match kind, picked:
        case "cpu", "":
            return []
        case "auto", "":
            return present
        case "cuda", _:
            wanted = picked.split(",") if picked else present
            if not wanted or not set(wanted) <= set(present):
                here = ", ".join(present) or "none"
                raise UsageError(f"--device {device}: this machine has these GPUs: {here}")
            return wanted
    raise UsageError(f"--device must be auto, cpu, cuda or cuda:0,1, got {device!r}")
