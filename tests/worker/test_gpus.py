"""Laws of choosing GPUs, against a small NVML of our own (there is no GPU to be had here)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from lsqctl.errors import UsageError
from lsqctl.run import EndReason
from lsqctl.store import Store, open_store
from lsqctl.worker.gpus import DeviceFileProbe, GpuHealth, NvmlProbe, select_gpus
from lsqctl.worker.messages import ExitReport
from lsqctl.worker.slots import SlotAllocator, make_slots
from tests.store.samples import Clock, identity, new, submit

GIB = 2**30


class NVMLError(Exception):
    """What NVML raises."""


@dataclass
class FakeNvml:
    """As much of ``pynvml`` as is asked; handles are UUIDs."""

    uuids: tuple[str, ...] = ("GPU-aa", "GPU-bb", "GPU-cc")
    processes: dict[str, list[Any]] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    NVMLError = NVMLError

    def nvmlDeviceGetCount(self) -> int:
        return len(self.uuids)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return self.uuids[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid in self.broken:
            raise NVMLError("GPU is lost")
        return uuid

    def nvmlDeviceGetUUID(self, handle: str) -> bytes:
        return handle.encode()

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        return self.processes.get(handle, [])

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return SimpleNamespace(used=self.used.get(handle, GIB // 2), total=80 * GIB)


@pytest.fixture
def nvml() -> FakeNvml:
    return FakeNvml()


def allocator(
    nvml: FakeNvml, clock: Clock, *, wanted: str = "auto", slots: int = 1
) -> SlotAllocator:
    eyes = NvmlProbe(nvml)
    watch = GpuHealth(eyes, avoid_busy=wanted == "auto", clock=clock)
    return SlotAllocator(make_slots(select_gpus(wanted, eyes), slots), watch)


def test_a_busy_gpu_is_left_alone_with_the_reason_until_it_is_idle(nvml):
    mine = SimpleNamespace(pid=os.getpid(), usedGpuMemory=3 * GIB)
    nvml.processes["GPU-bb"] = [mine]
    nvml.used["GPU-cc"] = 40 * GIB
    said: list[str] = []
    here = allocator(nvml, Clock())
    for _ in range(3):
        here.refresh(said.append)
    assert here.pool.free_gpus == ("GPU-aa",)
    (notice,) = said
    assert f"GPU 1: busy with process {os.getpid()} of " in notice
    assert "3.22 GB; GPU 2: 42.9 GB are held by a process that cannot be seen" in notice
    nvml.processes.clear()
    nvml.used.clear()
    here.refresh(said.append)
    assert here.pool.free_gpus == nvml.uuids
    assert said[-1] == ""


def test_our_own_attempts_do_not_make_a_gpu_busy(nvml):
    here = allocator(nvml, Clock(), slots=2)
    share = here.allocate(1)
    nvml.processes[share.gpus[0]] = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)]
    here.refresh()
    assert here.pool.excluded == frozenset()
    assert len(here.pool.free) == 5


@pytest.mark.parametrize("wanted", ["all", "0,1,2", "GPU-aa,GPU-bb,GPU-cc"])
def test_gpus_that_the_user_names_are_taken_busy_or_not(nvml, wanted):
    nvml.processes["GPU-bb"] = [SimpleNamespace(pid=1, usedGpuMemory=GIB)]
    here = allocator(nvml, Clock(), wanted=wanted)
    here.refresh()
    assert here.pool.free_gpus == nvml.uuids


def test_a_gpu_that_failed_an_attempt_is_quarantined_and_the_others_go_on(nvml):
    clock = Clock()
    here = allocator(nvml, clock, wanted="all")
    share = here.allocate(1)
    here.release(share, ExitReport(EndReason.INFRA, "CUDA error: uncorrectable ECC error"))
    here.refresh()
    assert here.pool.free_gpus == ("GPU-bb", "GPU-cc")
    assert "quarantined for 5 min after: CUDA error" in here.notice
    clock.seconds += 299
    here.refresh()
    assert here.pool.most_ranks == 2
    clock.seconds += 2
    here.refresh()
    assert here.pool.free_gpus == nvml.uuids


@pytest.mark.parametrize(
    "words",
    [
        ExitReport(EndReason.INFRA, "disk full: need 3.0 MB"),
        ExitReport(EndReason.OOM, "CUDA error: out of memory"),
        ExitReport(EndReason.COMPLETED, ""),
    ],
    ids=lambda words: words.reason,
)
def test_a_gpu_is_not_quarantined_for_what_is_not_its_fault(nvml, words):
    here = allocator(nvml, Clock())
    here.release(here.allocate(1), words)
    here.refresh()
    assert here.pool.most_ranks == 3


def test_a_gpu_that_nvml_has_lost_is_left_alone(nvml):
    here = allocator(nvml, Clock())
    nvml.broken.add("GPU-aa")
    here.refresh()
    assert here.pool.free_gpus == ("GPU-bb", "GPU-cc")
    assert here.notice == "GPU 0: NVML: GPU is lost"


@pytest.mark.parametrize(
    ("wanted", "allowed", "found"),
    [
        ("none", None, []),
        ("auto", None, ["GPU-aa", "GPU-bb", "GPU-cc"]),
        ("2,0", None, ["GPU-cc", "GPU-aa"]),
        ("GPU-bb", None, ["GPU-bb"]),
        ("auto", ["2", "0"], ["GPU-cc", "GPU-aa"]),
        ("all", ["GPU-b"], ["GPU-bb"]),
        ("auto", ["-1", "0"], []),
        ("auto", [], []),
        ("0", ["0"], ["GPU-aa"]),
    ],
)
def test_a_schedulers_choice_of_gpus_is_kept(nvml, wanted, allowed, found):
    assert select_gpus(wanted, NvmlProbe(nvml), allowed) == found


@pytest.mark.parametrize("wanted", ["3", "0,9", "tpu", "", "0,"])
def test_a_gpu_that_is_not_there_is_a_usage_error_that_lists_those_that_are(nvml, wanted):
    with pytest.raises(UsageError, match="these GPUs: 0, 1, 2"):
        select_gpus(wanted, NvmlProbe(nvml))
    with pytest.raises(UsageError, match="these GPUs: 1;"):
        select_gpus("0", NvmlProbe(nvml), ["1"])


def test_without_nvml_gpus_are_found_by_their_device_files_and_it_is_said(tmp_path):
    for name in ("nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    eyes = DeviceFileProbe(tmp_path, "pynvml is missing")
    assert select_gpus("auto", eyes) == ["2", "10"]
    assert eyes.unavailable_reason
    with pytest.raises(UsageError, match="none"):
        select_gpus("all", DeviceFileProbe(tmp_path / "nothing", "pynvml is missing"))


@pytest.fixture
def store(tmp_path):
    with open_store(f"sqlite:///{tmp_path}/home/lsqctl.db") as opened:
        opened.workers.register(identity("w1"))
        yield opened


def claimed(store: Store, here: SlotAllocator) -> Any:
    """Claim as the supervisor does."""
    pool = here.pool
    return store.queue.claim("w1", gpus=pool.most_ranks, free_gpus=pool.free_ranks)


def test_a_run_that_reserves_gpus_is_not_starved_by_smaller_ones(nvml, store):
    here = allocator(nvml, Clock(), slots=2)
    small = here.allocate(claimed_run(store, here, "first").gpus)
    submit(store, new("big", gpus=3), new("later"))
    assert claimed(store, here) is None, "five slots are free, and kept so"
    here.release(small, ExitReport(EndReason.COMPLETED, ""))
    big = claimed(store, here).run
    assert big.name == "big"
    share = here.allocate(big.gpus)
    assert share.gpus == nvml.uuids
    assert not here.pool.free
    here.release(share, ExitReport(EndReason.COMPLETED, ""))
    assert claimed(store, here).run.name == "later"


def test_a_run_that_reserves_more_gpus_than_can_be_used_is_passed_over(nvml, store):
    here = allocator(nvml, Clock())
    nvml.broken.add("GPU-aa")
    here.refresh()
    submit(store, new("big", gpus=3), new("small"))
    assert claimed(store, here).run.name == "small"


def claimed_run(store: Store, here: SlotAllocator, name: str) -> Any:
    submit(store, new(name))
    return claimed(store, here).run
