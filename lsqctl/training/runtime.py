"""How one attempt executes: device, threads, determinism, RNG states, memory."""

from __future__ import annotations

import platform
import random
import resource
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from lsqctl.bundled import code_sha256
from lsqctl.errors import Preempted
from lsqctl.recipe import Recipe, plugins_of
from lsqctl.run import JsonObject
from lsqctl.settings import CompileMode, recorded_variables
from lsqctl.training.checkpoint_files import without_lease
from lsqctl.training.ranks import SOLO, STOPPED, World, any_rank


@dataclass(frozen=True, slots=True)
class ExecutionContext:
    """Where and how one attempt executes; nothing here changes what is computed.

    ``device`` is ``cpu`` or ``cuda:0``. ``inputs`` holds, by recipe key (``model.weights``,
    ``distill.teacher``), a weights file, a checkpoint folder of a parent run, or
    ``torchvision:NAME``. ``stop`` is called at every step and at every evaluation batch: when it
    returns True, the state is saved and Preempted raised. ``compile`` is whether to compile the
    network: ``auto`` does what the first attempt did, or decides. ``run_dir`` holds the
    checkpoints; ``recorded_checkpoints`` says which count, by manifest's sha256 (None: all), and
    ``with_lease`` changes the folder while nobody else can become the run's owner. After
    ``pause_epoch`` epochs the attempt ends with Paused. ``world`` are the ranks that share the run.
    """

    run_dir: Path
    data_dir: Path
    device: str = "cpu"
    threads: int = 1
    fence: str = "0"
    inputs: Mapping[str, Path | str] = field(default_factory=dict)
    stop: Callable[[], bool] = lambda: False
    checkpoint_seconds: float = 300.0
    compile: CompileMode = "auto"
    recorded_checkpoints: Collection[str] | None = None
    with_lease: Callable[[Callable[[], None]], None] = without_lease
    pause_epoch: int | None = None
    world: World = SOLO


def check_stop(context: ExecutionContext) -> None:
    """Raise Preempted, at all ranks at once, when one of them is asked to stop."""
    if any_rank(context.world, context.stop())[0]:
        raise Preempted(STOPPED)


def check_own_stop(context: ExecutionContext) -> None:
    """Raise Preempted when this rank is asked to stop, where the others cannot be asked."""
    if context.stop():
        raise Preempted(STOPPED)


def setup_torch(context: ExecutionContext, seed: int) -> torch.device:
    """Seed every generator, fix threads and deterministic kernels; return the device."""
    torch.set_num_threads(context.threads)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    device = torch.device(context.device)
    use_deterministic_kernels(warn_only=determinism_level(context) != "bitwise")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.reset_peak_memory_stats(device)
    return device


def use_deterministic_kernels(*, warn_only: bool) -> None:
    """Choose deterministic kernels; memory is not filled with NaN before it is written.

    That filling would only help to find reads of what nobody wrote, and takes a tenth of a step
    (ResNet-20, batch 128, on a CPU).
    """
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def determinism_level(context: ExecutionContext) -> str:
    """Return ``bitwise`` where the same machine computes the same bits again, or ``statistical``.

    cuBLAS needs CUBLAS_WORKSPACE_CONFIG for it, set before the process starts.
    """
    cublas_fixed = recorded_variables().get("CUBLAS_WORKSPACE_CONFIG") in (":4096:8", ":16:8")
    return "bitwise" if context.device == "cpu" or cublas_fixed else "statistical"


def execution_environment(context: ExecutionContext, recipe: Recipe) -> dict[str, str | int]:
    """Return what must be the same for a resumed attempt to compute the same bits.

    The source of plugins that the recipe uses is part of it, and so is torchcodec.
    """
    name = "cpu" if context.device == "cpu" else torch.cuda.get_device_name(context.device)
    return {
        "device": name,
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": context.threads,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "code": code_sha256()[:16],
        **{f"plugin {name}": p.sha256()[:16] for name, p in plugins_of(recipe).items()},
        **({"torchcodec": version("torchcodec")} if recipe.data.decoder == "torchcodec" else {}),
    }


def torch_rng_states() -> JsonObject:
    """Return torch's random states, of the CPU and of every CUDA device in use."""
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if in_use else []
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def python_rng_states() -> JsonObject:
    """Return Python's and NumPy's random states as plain values."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
    }


def restore_rng_states(tensors: JsonObject, values: JsonObject) -> None:
    """Put every random state back."""
    version, internal, gauss = values["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = values["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(tensors["torch"])
    for index, state in enumerate(tensors["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, index)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most bytes held so far: on the GPU, or by this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
