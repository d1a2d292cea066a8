"""Whether a run compiles its network, decided at its first attempt, and the compiled network.

Only training steps on full batches are compiled: the last batch of an epoch, evaluation and
calibration stay eager, so that every shape is compiled once and counts are those of ``verify``.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lsqctl.errors import CannotCompile
from lsqctl.quant import model_cost
from lsqctl.recipe import Recipe
from lsqctl.settings import change_environment, compile_cache
from lsqctl.training.cursor import Cursor
from lsqctl.training.feed import Feed
from lsqctl.training.runtime import Job

Network = Callable[[Tensor], Tensor]

# Measured with ResNet-20 on CIFAR-10, batch 128, fp32, W4A4 (docs/speed.md): an eager step does 33
# GMAC a second and thread, forward and backward (43 in full precision); a compiled one takes 0.75
# of its time, channels last; compiling costs one core 2.2 s a layer.
_GMAC_PER_SECOND = 30.0
_COMPILE_SECONDS_PER_LAYER = 2.5
_SAVED = 0.25
# An eager step is 0.87 of its time in this order (a compiled one the same: it orders for itself).
_CHANNELS_LAST_FROM = 32  # pixels a side; measured from here on, on a CPU
_ADVICE = "install a C++ compiler (g++), or train with --compile off"
_MARGIN = 2.0  # what is saved must be so many times what compiling costs: both are estimates


def decide(cursor: Cursor, *, recipe: Recipe, job: Job, feed: Feed, model: nn.Module) -> list[str]:
    """Settle in a first attempt's cursor whether to compile; return what is worth saying of it.

    Raises CannotCompile when the job demands it and it does not work here.
    """
    wanted, why = job.compile == "on", ""
    if job.compile == "auto":
        wanted, why = _repays(recipe, job, feed, model)
    on, complaints = _possible(wanted, job)
    cursor.circumstances["compile"] = on
    large = feed.input_shape[-1] >= _CHANNELS_LAST_FROM
    cursor.circumstances["channels_last"] = large and not on and job.device == "cpu"
    return [why, *complaints] if on and why else complaints


def resumed(cursor: Cursor, job: Job) -> tuple[bool, list[str]]:
    """Return whether a later attempt compiles, and what is worth saying of it.

    It does as the first one did unless the job says otherwise or it does not work here.
    Raises CannotCompile as ``decide`` does.
    """
    before = bool(cursor.circumstances.get("compile", False))
    return _possible({"auto": before, "on": True, "off": False}[job.compile], job)


def compile_for(module: nn.Module, *, batch_size: int) -> Network:
    """Return what gives the module's outputs, compiled for batches of exactly ``batch_size``."""
    from torch._dynamo.exc import TorchDynamoException  # 0.8 s: not for those who never compile

    fast = torch.compile(module, dynamic=False, options=_options())

    def forward(images: Tensor) -> Tensor:
        if len(images) != batch_size:
            out: Tensor = module(images)
            return out
        try:
            out = fast(images)
        except TorchDynamoException as error:
            raise CannotCompile(f"{_first_line(error)}; {_ADVICE}") from error
        return out

    return forward


def channels_last(module: nn.Module) -> Network:
    """Return what gives the module's outputs for images whose channels it has laid out last.

    Its weights stay as they are, so that evaluation goes on as ``verify`` will measure it.
    """

    def forward(images: Tensor) -> Tensor:
        out: Tensor = module(images.contiguous(memory_format=torch.channels_last))
        return out

    return forward


def _repays(recipe: Recipe, job: Job, feed: Feed, model: nn.Module) -> tuple[bool, str]:
    """Return whether compiling repays itself on this device, by an estimate, and why."""
    if job.device != "cpu":
        return True, ""
    images = recipe.train.epochs * len(feed.dataset.train)
    cost = model_cost(model, feed.input_shape)
    seconds = 3e-9 * cost.macs * images / (_GMAC_PER_SECOND * job.threads)
    layers = sum(isinstance(one, nn.Conv2d | nn.Linear) for one in model.modules())
    spent = _COMPILE_SECONDS_PER_LAYER * layers
    why = (
        f"compiling the network: about {seconds / 3600:.1f} h of training repay about {spent:.0f} "
        "s of compilation (`--compile off` does not)"
    )
    return _SAVED * seconds > _MARGIN * spent, why


def _possible(wanted: bool, job: Job) -> tuple[bool, list[str]]:
    if not wanted:
        return False, []
    share_cache(job.threads)
    fault = _fault(torch.device(job.device))
    if fault and job.compile == "on":
        raise CannotCompile(f"{fault}; {_ADVICE}")
    return not fault, [f"{fault}; training goes on without"] if fault else []


def _fault(device: torch.device) -> str:
    """Return why compiling does not work here, or nothing: compile a trifle and look."""
    trifle = torch.compile(_trifle, dynamic=False)
    try:
        trifle(torch.zeros(8, device=device))
    except (RuntimeError, OSError) as error:
        return f"torch.compile does not work here: {_first_line(error)}"
    return ""


def _trifle(x: Tensor) -> Tensor:
    return (x * 2 + 1).relu()


def share_cache(threads: int) -> None:
    """Let all runs share what they compile, in one process with as many as training has threads.

    The code is made for this host's processor and for one number of threads.
    """
    import torch._inductor.config as inductor
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    label = f"{platform.node()}-torch{torch.__version__}-{threads}"
    change_environment(compile_cache(label, default=default_cache_dir()))
    inductor.compile_threads = max(1, threads)


def _first_line(error: Exception) -> str:
    """Return what a compiler's long story says first, without the name of its teller."""
    lines = [line for line in str(error).splitlines() if line and not line.startswith("backend=")]
    return (lines or [type(error).__name__])[0].rstrip(".:")


def _options() -> dict[str, Any]:
    """Divide as eager does, on a GPU too: an approximate quotient may fall into another code."""
    import torch._inductor.config as inductor

    name = "eager_numerics.division_rounding"
    return {name: True} if hasattr(inductor, "eager_numerics") else {}
