"""The slots where attempts run, GPUs or parts of the CPU's cores, and who holds which.

A ``Pool`` is a pure value: it decides from what it holds alone, and every change gives a new one.
A worker's ``SlotAllocator`` holds its pool as it is now: what is free, what is left alone, and why.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lsqctl.errors import UsageError
from lsqctl.settings import allocated_cores, thread_variables
from lsqctl.worker.gpus import GpuHealth, is_gpu_error

if TYPE_CHECKING:
    from lsqctl.worker.messages import ExitReport


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one attempt, or one rank of it; ``gpu`` names what it sees, None on a CPU."""

    index: int
    threads: int
    gpu: str | None = None


@dataclass(frozen=True, slots=True)
class Allocation:
    """The slots that one attempt holds.

    One, or where several ranks share the run all slots of so many GPUs, or so many slots of a CPU.
    """

    slots: tuple[Slot, ...]

    @property
    def gpus(self) -> tuple[str, ...]:
        """The GPUs that it sees."""
        return tuple(dict.fromkeys(slot.gpu for slot in self.slots if slot.gpu is not None))

    @property
    def device(self) -> str:
        """What the child computes on, ``cpu`` or ``cuda:0``: the first GPU that it sees."""
        return "cuda:0" if self.gpus else "cpu"

    @property
    def threads(self) -> int:
        """How many threads it may use."""
        return sum(slot.threads for slot in self.slots)

    @property
    def env(self) -> dict[str, str]:
        """What the child's environment needs for it, set before a library reads it."""
        variables = thread_variables(self.threads)
        if self.gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
            variables["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        return variables


@dataclass(frozen=True, slots=True)
class Pool:
    """Slots, those that are taken (by index), and GPUs that must not be used now."""

    slots: tuple[Slot, ...]
    taken: frozenset[int] = frozenset()
    excluded: frozenset[str] = frozenset()

    @property
    def free(self) -> tuple[Slot, ...]:
        """The slots that an attempt may take now."""
        return tuple(
            slot for slot in self.slots if slot.index not in self.taken and self._is_usable(slot)
        )

    @property
    def has_room(self) -> bool:
        """Whether a slot is not taken, be its GPU excluded or not."""
        return len(self.taken) < len(self.slots)

    @property
    def most_ranks(self) -> int:
        """How many ranks an attempt may have: GPUs that may be used, or slots of a CPU."""
        usable = [slot for slot in self.slots if self._is_usable(slot)]
        return len({slot.index if slot.gpu is None else slot.gpu for slot in usable})

    @property
    def free_ranks(self) -> int:
        """How many ranks there is room for now."""
        return len(self.free_gpus) + sum(slot.gpu is None for slot in self.free)

    @property
    def free_gpus(self) -> tuple[str, ...]:
        """The GPUs that may be used and of which no slot is taken."""
        taken_by_gpu = self._taken_by_gpu()
        names = (
            slot.gpu for slot in self.free if slot.gpu is not None and not taken_by_gpu[slot.gpu]
        )
        return tuple(dict.fromkeys(names))

    @property
    def idle_gpus(self) -> tuple[str, ...]:
        """The GPUs of which no slot is taken, those that are excluded too."""
        return replace(self, excluded=frozenset()).free_gpus

    def allocate(self, ranks: int = 1) -> tuple[Allocation, Pool]:
        """Return the slots of one attempt, and the pool without them.

        One slot, where the fewest are taken; or with several ``ranks`` all slots of so many whole
        GPUs, or so many slots of a CPU.  Raises ValueError when there is no room.
        """
        if ranks > 1:
            if self.free_ranks < ranks:
                raise ValueError(f"room for {ranks} ranks is wanted, {self.free_ranks} are free")
            chosen = self.free_gpus[:ranks]
            of_gpus = tuple(slot for slot in self.slots if slot.gpu in chosen)
            allocation = Allocation(of_gpus or self.free[:ranks])
        else:
            if not self.free:
                raise ValueError("no slot is free")
            taken_by_gpu = self._taken_by_gpu()
            allocation = Allocation(
                (min(self.free, key=lambda slot: (taken_by_gpu[slot.gpu], slot.index)),)
            )
        return allocation, replace(
            self, taken=self.taken | {slot.index for slot in allocation.slots}
        )

    def release(self, allocation: Allocation) -> Pool:
        """Return the pool with the slots of an attempt that has ended."""
        return replace(self, taken=self.taken - {slot.index for slot in allocation.slots})

    def excluding(self, gpus: Iterable[str]) -> Pool:
        """Return the pool in which exactly these GPUs must not be used."""
        return replace(self, excluded=frozenset(gpus))

    def _taken_by_gpu(self) -> Counter[str | None]:
        """Count the taken slots of each GPU."""
        return Counter(slot.gpu for slot in self.slots if slot.index in self.taken)

    def _is_usable(self, slot: Slot) -> bool:
        return slot.gpu is None or slot.gpu not in self.excluded


def make_slots(gpus: Sequence[str], per_gpu: int | None) -> tuple[Slot, ...]:
    """Return ``per_gpu`` slots (by default one) for each GPU, or of the CPU where there is none.

    Threads are the cores divided among all slots, at least one.  Raises UsageError.
    """
    if per_gpu is not None and not 1 <= per_gpu <= 256:
        raise UsageError(f"--slots must be 1 to 256, got {per_gpu}")
    gpu_names: Sequence[str | None] = gpus or [None]
    threads = max(1, cpu_cores() // (len(gpu_names) * (per_gpu or 1)))
    gpu_of_slot = (gpu for gpu in gpu_names for _ in range(per_gpu or 1))
    return tuple(Slot(index, threads, gpu) for index, gpu in enumerate(gpu_of_slot))


def cpu_cores() -> int:
    """Return how many cores this process may use: by its affinity, and by its job of Slurm."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(cores, allocated_cores() or cores)


class SlotAllocator:
    """Holds the pool, and keeps it in step with the health of the GPUs."""

    def __init__(self, slots: Sequence[Slot], gpu_health: GpuHealth | None = None) -> None:
        self.pool = Pool(tuple(slots))
        self.notice = ""
        self._gpu_health = gpu_health

    @property
    def threads_per_slot(self) -> int:
        """What an attempt in one slot computes with."""
        return self.pool.slots[0].threads

    def refresh(self, on_change: Callable[[str], object] = lambda notice: None) -> None:
        """Ask again for the GPUs that we do not use; say so when the notice has changed."""
        if self._gpu_health is None:
            return
        unavailable = self._gpu_health.unavailable(self.pool.idle_gpus)
        self.pool = self.pool.excluding(unavailable)
        notice = self._gpu_health.notice(unavailable)
        if notice != self.notice:
            self.notice = notice
            on_change(notice)

    def allocate(self, ranks: int) -> Allocation:
        """Take the slots for an attempt.  Raises ValueError when there is no room."""
        allocation, self.pool = self.pool.allocate(ranks)
        return allocation

    def release(self, allocation: Allocation, exit_report: ExitReport) -> None:
        """Free the slots of an attempt that has ended; a GPU that failed it is quarantined."""
        self.pool = self.pool.release(allocation)
        if self._gpu_health is not None and is_gpu_error(exit_report.reason, exit_report.message):
            self._gpu_health.quarantine(allocation.gpus, exit_report.message)
