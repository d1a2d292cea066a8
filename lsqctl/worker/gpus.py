"""Which GPUs there are, which are at work for others, and which have just failed.

GPUs are seen through NVML (the extra ``gpu``), which never touches CUDA; without it by their device
files, and then a busy one cannot be told.  The NVML module is a parameter, so that tests bring one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from lsqctl.errors import UsageError
from lsqctl.run import EndReason
from lsqctl.settings import visible_gpus

QUARANTINE_SECONDS = 300.0
# Memory that nobody visible holds: above this share of the whole, somebody invisible does.
_IDLE_SHARE = 0.1
_GPU_ERRORS = re.compile(
    r"NVML|\bECC\b|\bXid\b|CUDA error|CUDA driver|cudaError|GPU is lost|fallen off the bus"
)


class Eyes(Protocol):
    """What sees the GPUs of this machine."""

    blind: str  # why a busy GPU cannot be told; empty where it can

    def names(self) -> list[str]:
        """Return a name for each GPU, as CUDA_VISIBLE_DEVICES takes it, in the system's order."""

    def busy(self, name: str) -> str:
        """Return why a GPU that is none of ours now should be left alone, or nothing."""


class NvmlEyes:
    """Sees through NVML (``pynvml``), already initialized.  GPUs are named by UUID."""

    blind = ""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._names = [self._uuid(index) for index in range(nvml.nvmlDeviceGetCount())]

    def names(self) -> list[str]:
        """Return the UUID of each GPU."""
        return self._names

    def busy(self, name: str) -> str:
        """Say who computes on it (pid, user, memory), or what NVML says instead."""
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(name)
            processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError as error:
            return f"NVML: {error}"
        if processes:
            return ", ".join(map(_holder, processes))
        if memory.used > _IDLE_SHARE * memory.total:
            return f"{_gib(memory.used)} are held by a process that cannot be seen from here"
        return ""

    def _uuid(self, index: int) -> str:
        uuid = self._nvml.nvmlDeviceGetUUID(self._nvml.nvmlDeviceGetHandleByIndex(index))
        return uuid.decode() if isinstance(uuid, bytes) else str(uuid)


class DeviceFiles:
    """Sees only that GPUs exist.  They are named by number."""

    def __init__(self, folder: Path, why: str) -> None:
        self._folder = folder
        self.blind = why

    def names(self) -> list[str]:
        """Return the number of each GPU."""
        files = self._folder.glob("nvidia[0-9]*")
        return sorted((path.name.removeprefix("nvidia") for path in files), key=int)

    def busy(self, name: str) -> str:
        """Nothing can be said."""
        return ""


def open_eyes(folder: Path = Path("/dev")) -> Eyes:
    """Return NVML where it is installed and answers, else the device files."""
    try:
        import pynvml
    except ImportError:
        return DeviceFiles(folder, "pynvml is missing: pip install 'lsqctl[gpu]'")
    try:
        pynvml.nvmlInit()
        return NvmlEyes(pynvml)
    except pynvml.NVMLError as error:
        return DeviceFiles(folder, f"NVML: {error}")


def pick(wanted: str, eyes: Eyes, allowed: Sequence[str] | None = None) -> list[str]:
    """Return the GPUs that ``auto``, ``all``, ``none``, or numbers and UUIDs (``0,2``) mean.

    None of them means the CPU.  ``allowed`` is what CUDA_VISIBLE_DEVICES leaves: a scheduler's
    choice is kept.  Raises UsageError.
    """
    if wanted == "none":
        return []
    names = eyes.names()
    known = {name: name for name in names} | {str(index): one for index, one in enumerate(names)}
    if allowed is not None:
        names = list(_allowed(allowed, known))
        known = {key: name for key, name in known.items() if name in names}
    if wanted == "auto" or (wanted == "all" and names):
        return names
    asked = [one.strip() for one in wanted.split(",")]
    if wanted == "all" or not set(asked) <= set(known):
        here = ", ".join(key for key in known if key.isdigit()) or "none"
        raise UsageError(
            f"--gpus {wanted}: this worker may use these GPUs: {here}; "
            "say auto, all, none, or numbers as in 0,2"
        )
    return list(dict.fromkeys(known[one] for one in asked))


def _allowed(variable: Sequence[str], known: Mapping[str, str]) -> Iterator[str]:
    """Yield the GPUs of CUDA_VISIBLE_DEVICES as CUDA reads it: up to a number that is none."""
    for one in variable:
        if one in known:
            yield known[one]
        elif one.lstrip("-").isdigit():
            return
        else:  # a UUID cut short, or a part of a GPU (MIG)
            yield next((name for name in known.values() if name.startswith(one)), one)


def is_gpu_error(reason: EndReason, message: str) -> bool:
    """Return whether an attempt ended because of its GPU."""
    return reason is EndReason.INFRA and _GPU_ERRORS.search(message) is not None


@dataclass(slots=True)
class Watch:
    """Tells which of some GPUs to leave alone now, and why.

    ``leave_busy`` is for GPUs that the user did not name.  One that failed rests for a while.
    """

    eyes: Eyes
    leave_busy: bool
    clock: Callable[[], float] = time.monotonic
    _resting: dict[str, tuple[float, str]] = field(default_factory=dict)

    def shut(self, untaken: Sequence[str]) -> dict[str, str]:
        """Return the reason for each GPU to leave alone; ``untaken`` are those we do not use."""
        reasons = {gpu: self.eyes.busy(gpu) for gpu in untaken} if self.leave_busy else {}
        now = self.clock()
        self._resting = {gpu: one for gpu, one in self._resting.items() if one[0] > now}
        resting = {gpu: why for gpu, (_, why) in self._resting.items()}
        return {gpu: why for gpu, why in reasons.items() if why} | resting

    def rest(self, gpus: Sequence[str], why: str) -> None:
        """Leave GPUs alone for some minutes."""
        until = self.clock() + QUARANTINE_SECONDS
        told = f"rests for {QUARANTINE_SECONDS / 60:g} min after: {why}"
        self._resting.update(dict.fromkeys(gpus, (until, told)))

    def notice(self, shut: dict[str, str]) -> str:
        """Return one line on the GPUs that are left alone; empty when there are none."""
        numbers = {name: index for index, name in enumerate(self.eyes.names())}
        told = (f"GPU {numbers.get(gpu, gpu)}: {why}" for gpu, why in sorted(shut.items()))
        return "; ".join(told)


def choose(wanted: str, eyes: Eyes) -> tuple[list[str], Watch]:
    """Return the GPUs that this worker works on, and who watches them."""
    return pick(wanted, eyes, visible_gpus()), Watch(eyes, leave_busy=wanted == "auto")


def _holder(process: Any) -> str:
    """Name a process on a GPU: pid, user, memory (NVML may know none)."""
    try:
        user = psutil.Process(process.pid).username()
    except psutil.Error:  # another container's
        user = "an unknown user"
    memory = f", {_gib(process.usedGpuMemory)}" if process.usedGpuMemory else ""
    return f"busy with process {process.pid} of {user}{memory}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
