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
from types import ModuleType
from typing import Protocol

import psutil

from lsqctl.errors import UsageError
from lsqctl.run import EndReason
from lsqctl.settings import visible_gpus
from lsqctl.text import format_bytes

QUARANTINE_SECONDS = 300.0
# Memory that nobody visible holds: above this fraction of the whole, somebody invisible does.
_IDLE_MEMORY_FRACTION = 0.1
_GPU_ERRORS = re.compile(
    r"NVML|\bECC\b|\bXid\b|CUDA error|CUDA driver|cudaError|GPU is lost|fallen off the bus"
)


class GpuProbe(Protocol):
    """How the GPUs of this machine are asked."""

    unavailable_reason: str  # why a busy GPU cannot be told; empty where it can

    def gpu_names(self) -> list[str]:
        """Return a name for each GPU, as CUDA_VISIBLE_DEVICES takes it, in the system's order."""

    def busy_reason(self, name: str) -> str:
        """Return why a GPU that is none of ours now should be left alone, or nothing."""


class _GpuProcess(Protocol):
    pid: int
    usedGpuMemory: int | None


class NvmlProbe:
    """Asks NVML (``pynvml``), already initialized.  GPUs are named by UUID."""

    unavailable_reason = ""

    def __init__(self, nvml: ModuleType) -> None:
        self._nvml = nvml
        self._names = [self._uuid(index) for index in range(nvml.nvmlDeviceGetCount())]

    def gpu_names(self) -> list[str]:
        """Return the UUID of each GPU."""
        return self._names

    def busy_reason(self, name: str) -> str:
        """Say who computes on it (pid, user, memory), or what NVML says instead."""
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(name)
            processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError as error:
            return f"NVML: {error}"
        if processes:
            return ", ".join(map(_describe_process, processes))
        if memory.used > _IDLE_MEMORY_FRACTION * memory.total:
            return (
                f"{format_bytes(memory.used)} are held by a process that cannot be seen from here"
            )
        return ""

    def _uuid(self, index: int) -> str:
        uuid = self._nvml.nvmlDeviceGetUUID(self._nvml.nvmlDeviceGetHandleByIndex(index))
        return uuid.decode() if isinstance(uuid, bytes) else str(uuid)


class DeviceFileProbe:
    """Finds only that GPUs exist.  They are named by number."""

    def __init__(self, folder: Path, unavailable_reason: str) -> None:
        self._folder = folder
        self.unavailable_reason = unavailable_reason

    def gpu_names(self) -> list[str]:
        """Return the number of each GPU."""
        files = self._folder.glob("nvidia[0-9]*")
        return sorted((path.name.removeprefix("nvidia") for path in files), key=int)

    def busy_reason(self, name: str) -> str:
        """Nothing can be said."""
        return ""


def open_probe(folder: Path = Path("/dev")) -> GpuProbe:
    """Return NVML where it is installed and answers, else the device files."""
    try:
        import pynvml
    except ImportError:
        return DeviceFileProbe(folder, "pynvml is missing: pip install 'lsqctl[gpu]'")
    try:
        pynvml.nvmlInit()
        return NvmlProbe(pynvml)
    except pynvml.NVMLError as error:
        return DeviceFileProbe(folder, f"NVML: {error}")


def select_gpus(
    gpu_choice: str, probe: GpuProbe, allowed: Sequence[str] | None = None
) -> list[str]:
    """Return the GPUs that ``auto``, ``all``, ``none``, or numbers and UUIDs (``0,2``) mean.

    None of them means the CPU.  ``allowed`` is what CUDA_VISIBLE_DEVICES leaves: a scheduler's
    choice is kept.  Raises UsageError.
    """
    if gpu_choice == "none":
        return []
    names = probe.gpu_names()
    gpu_by_key = {name: name for name in names} | {
        str(index): gpu for index, gpu in enumerate(names)
    }
    if allowed is not None:
        names = list(_visible(allowed, gpu_by_key))
        gpu_by_key = {key: name for key, name in gpu_by_key.items() if name in names}
    if gpu_choice == "auto" or (gpu_choice == "all" and names):
        return names
    requested = [gpu.strip() for gpu in gpu_choice.split(",")]
    if gpu_choice == "all" or not set(requested) <= set(gpu_by_key):
        usable_numbers = ", ".join(key for key in gpu_by_key if key.isdigit()) or "none"
        raise UsageError(
            f"--gpus {gpu_choice}: this worker may use these GPUs: {usable_numbers}; "
            "say auto, all, none, or numbers as in 0,2"
        )
    return list(dict.fromkeys(gpu_by_key[gpu] for gpu in requested))


def _visible(variable: Sequence[str], gpu_by_key: Mapping[str, str]) -> Iterator[str]:
    """Yield the GPUs of CUDA_VISIBLE_DEVICES as CUDA reads it: up to a number that is none."""
    for entry in variable:
        if entry in gpu_by_key:
            yield gpu_by_key[entry]
        elif entry.lstrip("-").isdigit():
            return
        else:  # a UUID cut short, or a part of a GPU (MIG)
            yield next((name for name in gpu_by_key.values() if name.startswith(entry)), entry)


def is_gpu_error(reason: EndReason, message: str) -> bool:
    """Return whether an attempt ended because of its GPU."""
    return reason is EndReason.INFRA and _GPU_ERRORS.search(message) is not None


@dataclass(slots=True)
class GpuHealth:
    """Tells which of some GPUs to leave alone now, and why.

    ``avoid_busy`` is for GPUs that the user did not name.  One that failed is quarantined.
    """

    probe: GpuProbe
    avoid_busy: bool
    clock: Callable[[], float] = time.monotonic
    _quarantined: dict[str, tuple[float, str]] = field(default_factory=dict)

    def unavailable(self, idle_gpus: Sequence[str]) -> dict[str, str]:
        """Return the reason for each GPU to leave alone; ``idle_gpus`` are those we do not use."""
        reasons = {gpu: self.probe.busy_reason(gpu) for gpu in idle_gpus} if self.avoid_busy else {}
        now = self.clock()
        self._quarantined = {
            gpu: entry for gpu, entry in self._quarantined.items() if entry[0] > now
        }
        quarantined = {gpu: reason for gpu, (_, reason) in self._quarantined.items()}
        return {gpu: reason for gpu, reason in reasons.items() if reason} | quarantined

    def quarantine(self, gpus: Sequence[str], reason: str) -> None:
        """Leave GPUs alone for some minutes."""
        until = self.clock() + QUARANTINE_SECONDS
        reason_text = f"quarantined for {QUARANTINE_SECONDS / 60:g} min after: {reason}"
        self._quarantined.update(dict.fromkeys(gpus, (until, reason_text)))

    def notice(self, unavailable: dict[str, str]) -> str:
        """Return one line on the GPUs that are left alone; empty when there are none."""
        numbers = {name: index for index, name in enumerate(self.probe.gpu_names())}
        lines = (
            f"GPU {numbers.get(gpu, gpu)}: {reason}" for gpu, reason in sorted(unavailable.items())
        )
        return "; ".join(lines)


def select_with_health(gpu_choice: str, probe: GpuProbe) -> tuple[list[str], GpuHealth]:
    """Return the GPUs that this worker works on, and their health."""
    return select_gpus(gpu_choice, probe, visible_gpus()), GpuHealth(
        probe, avoid_busy=gpu_choice == "auto"
    )


def _describe_process(process: _GpuProcess) -> str:
    """Name a process on a GPU: pid, user, memory (NVML may know none)."""
    try:
        user = psutil.Process(process.pid).username()
    except psutil.Error:  # another container's
        user = "an unknown user"
    memory = f", {format_bytes(process.usedGpuMemory)}" if process.usedGpuMemory else ""
    return f"busy with process {process.pid} of {user}{memory}"
