"""Where and how one attempt computes: device, threads, determinism, random states, memory."""

from __future__ import annotations

import contextlib
import platform
import random
import resource
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lsqctl.settings import Compile, recorded_environment
from lsqctl.training.digest import code_sha256
from lsqctl.training.folders import at_once


@dataclass(frozen=True, slots=True)
class Job:
    """The circumstances of one attempt; nothing here changes what is computed.

    ``device`` is ``cpu`` or ``cuda:0``. ``inputs`` holds, by recipe key (``model.weights``,
    ``distill.teacher``), a weights file, a checkpoint folder of a parent run, or
    ``torchvision:NAME``. ``stop`` is asked at every step and at every evaluation batch: when it
    returns True, the state is saved and Preempted raised. ``compile`` is whether to compile the
    network: ``auto`` does what the first attempt did, or decides. ``run_dir`` holds the
    checkpoints; ``recorded`` says which of them count, by their manifest's sha256 (None: all), and
    ``owning`` does what changes the folder while nobody else can become the run's owner.
    """

    run_dir: Path
    data_dir: Path
    device: str = "cpu"
    threads: int = 1
    fence: str = "0"
    inputs: Mapping[str, Path | str] = field(default_factory=dict)
    stop: Callable[[], bool] = lambda: False
    checkpoint_seconds: float = 300.0
    compile: Compile = "auto"
    recorded: Collection[str] | None = None
    owning: Callable[[Callable[[], None]], None] = at_once


def enter(job: Job, seed: int) -> torch.device:
    """Seed every generator, fix threads and deterministic kernels; return the device."""
    torch.set_num_threads(job.threads)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    device = torch.device(job.device)
    deterministic_kernels(warn_only=determinism(job) != "bitwise")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.reset_peak_memory_stats(device)
    return device


def deterministic_kernels(*, warn_only: bool) -> None:
    """Choose deterministic kernels; memory is not filled with NaN before it is written.

    That filling would only help to find reads of what nobody wrote, and takes a tenth of a step
    (ResNet-20, batch 128, on a CPU).
    """
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def determinism(job: Job) -> str:
    """Return ``bitwise`` where the same machine computes the same bits again, or ``statistical``.

    cuBLAS needs CUBLAS_WORKSPACE_CONFIG for it, set before the process starts.
    """
    fixed = recorded_environment().get("CUBLAS_WORKSPACE_CONFIG") in (":4096:8", ":16:8")
    return "bitwise" if job.device == "cpu" or fixed else "statistical"


def circumstances(job: Job) -> dict[str, str | int]:
    """Return what must be the same for a resumed attempt to compute the same bits."""
    name = "cpu" if job.device == "cpu" else torch.cuda.get_device_name(job.device)
    return {
        "device": name,
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": job.threads,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "code": code_sha256()[:16],
    }


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context of a forward pass: bf16 or fp16 autocast, or nothing for fp32."""
    narrow = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in narrow:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=narrow[precision])


def random_tensors() -> dict[str, Any]:
    """Return torch's random states, of the CPU and of every CUDA device in use."""
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if in_use else []
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def random_values() -> dict[str, Any]:
    """Return Python's and NumPy's random states as plain values."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
    }


def restore_random(tensors: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Put every random state back."""
    version, internal, gauss = values["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = values["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(tensors["torch"])
    for index, state in enumerate(tensors["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, index)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held so far: on the GPU, or by this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
