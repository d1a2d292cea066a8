"""Whether a run compiles its network and computes in integers, decided at its first attempt.

Only training steps on full batches are compiled: the last batch of an epoch, evaluation and
calibration stay eager, so that every shape is compiled once and counts are those of ``verify``.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from lsqctl.errors import CannotCompile, StoreError, UsageError
from lsqctl.quant import integer, model_cost
from lsqctl.quant.spec import Kernel
from lsqctl.quant.surgery import eval_mode
from lsqctl.quant.torch_faults import ViewsMayCopy, unsafe_layers, views_may_copy
from lsqctl.recipe import Recipe
from lsqctl.settings import make_compile_cache
from lsqctl.training.data_pipeline import DataPipeline
from lsqctl.training.pieces import microbatch_sizes
from lsqctl.training.precision import multiplies_bf16
from lsqctl.training.runtime import ExecutionContext, check_own_stop
from lsqctl.training.train_state import TrainState

Forward = Callable[[Tensor], Tensor]

# Measured with ResNet-20 on CIFAR-10, batch 128, fp32, W4A4 (docs/speed.md): an eager step does 33
# GMAC a second and thread, forward and backward (43 in full precision); a compiled one takes 0.75
# of its time, channels last; compiling costs one core 2.2 s a layer.
_GMAC_PER_SECOND = 30.0
_COMPILE_SECONDS_PER_LAYER = 2.5
_TIME_SAVED = 0.25
# An eager step is 0.87 of its time in this order (a compiled one the same: it orders for itself).
_CHANNELS_LAST_MIN_SIZE = 32  # pixels a side; measured from here on, on a CPU
_INTEGER_MIN_SIZE = 32  # pixels a side; what integers save was measured from here on, too
_COMPILER_HINT = "install a C++ compiler (g++), or train with --compile off"
_SAFETY_FACTOR = 2.0  # what is saved must be so many times what compiling costs: both are estimates


def decide_compile(
    train_state: TrainState,
    *,
    recipe: Recipe,
    context: ExecutionContext,
    pipeline: DataPipeline,
    model: nn.Module,
) -> list[str]:
    """Decide at the first attempt whether to compile, record it, and return notes on it.

    Raises CannotCompile when the context demands it and it does not work here.
    """
    requested, reason = context.compile == "on", ""
    if context.compile == "auto":
        requested, reason = _pays_off(recipe, context, pipeline, model)
    enabled, notes = _available(requested, context)
    train_state.environment["compile"] = enabled
    large = pipeline.input_shape[-1] >= _CHANNELS_LAST_MIN_SIZE
    train_state.environment["channels_last"] = large and not enabled and context.device == "cpu"
    return [reason, *notes] if enabled and reason else notes


def eager_where_unsafe(context: ExecutionContext, model: nn.Module) -> ExecutionContext:
    """Return the context, with ``compile`` off where a compiled step would meet torch's fault.

    A compiler lays channels last itself: ``avoid_unsafe_channels_last`` is for eager steps.
    Raises CannotCompile where it demands both.
    """
    layers = unsafe_layers(model)
    if context.device != "cpu" or not layers:
        return context
    return _without_compile(
        context,
        f"torch damages memory in layer {layers[0]} (1 × 1, with a stride, of fewer than 16 "
        "input channels) whose channels are last: train with --compile auto or off",
    )


def eager_where_viewed(
    recipe: Recipe, context: ExecutionContext, pipeline: DataPipeline, model: nn.Module
) -> ExecutionContext:
    """Return the context, with ``compile`` off where a compiler would refuse a network's ``view``.

    Behind a compiled step's integer kernels channels lie last, and a compiler copies nothing.
    Raises CannotCompile where it demands both.
    """
    if context.compile == "off" or _no_integers_reason(context):
        return context
    kernel = decide_kernel(recipe, context, pipeline, compiled=True)
    if kernel == "float" or not _is_viewed(model, pipeline.input_shape):
        return context
    return _without_compile(
        context,
        "the network has a `view` of channels that lie last behind integer kernels: write "
        "flatten or reshape there, or train with --compile auto or off",
    )


def lay_out_for(pipeline: DataPipeline, *networks: nn.Module | None) -> None:
    """Have images of one channel lie channel first where a network has a `view`.

    That channel lies first and last, which torch takes for last; for others they stay as they are.
    """
    if pipeline.input_shape[0] == 1:
        present = [network for network in networks if network is not None]
        pipeline.lays_channel_first = any(_is_viewed(one, pipeline.input_shape) for one in present)


def _is_viewed(model: nn.Module, input_shape: tuple[int, int, int]) -> bool:
    """Return whether torch refuses a network's ``view`` where channels lie last: it is tried."""
    channels, *sides = input_shape
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    images = torch.zeros(2, *sides, channels, device=device).permute(0, 3, 1, 2)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), eval_mode(model), torch.no_grad(), ViewsMayCopy() as views:
        model(images)
    return bool(views.were_refused)


def compiled_batch_size(recipe: Recipe, pipeline: DataPipeline) -> int:
    """Return how many images a compiled step has; of another number it is not compiled."""
    batch_size = min(recipe.data.batch_size, len(pipeline.dataset.train))
    return microbatch_sizes(batch_size, recipe.train.accumulate)[0]


def eager_where_needed(recipe: Recipe, context: ExecutionContext) -> ExecutionContext:
    """Return the context, with ``compile`` off where a recipe's features must be heard.

    Raises CannotCompile where it demands both.
    """
    if recipe.distill is None or recipe.distill.features is None:
        return context
    return _without_compile(
        context,
        "distill.features hears what enters the last layer, which a compiled network does not "
        "tell: train with --compile auto or off",
    )


def _without_compile(context: ExecutionContext, reason: str) -> ExecutionContext:
    """Return the context, with ``compile`` off; raises CannotCompile where it demands it."""
    if context.compile == "on":
        raise CannotCompile(reason)
    return replace(context, compile="off")


def resume_compile(train_state: TrainState, context: ExecutionContext) -> tuple[bool, list[str]]:
    """Return whether a later attempt compiles, and notes on it.

    It does as the first one did unless the context says otherwise or it does not work here.
    Raises CannotCompile as ``decide_compile`` does.
    """
    was_enabled = bool(train_state.environment.get("compile", False))
    return _available({"auto": was_enabled, "on": True, "off": False}[context.compile], context)


def decide_kernel(
    recipe: Recipe, context: ExecutionContext, pipeline: DataPipeline, *, compiled: bool
) -> Kernel:
    """Return what the run's quantized layers compute with, for all of its attempts.

    Compiled, in bf16, integers gain nothing where the processor multiplies bf16 itself.

    Raises UsageError when the recipe demands integers and this attempt has none.
    """
    quant = recipe.quant
    if not quant.to_spec().quantized or quant.kernel == "float":
        return "float"
    reason = _no_integers_reason(context)
    if quant.kernel == "integer" and reason:
        raise UsageError(
            f"quant.kernel: integer: {reason}; train on a CPU that has one, or say auto or float"
        )
    if quant.kernel == "integer":
        return "integer"
    pays_off = pipeline.input_shape[-1] >= _INTEGER_MIN_SIZE and not (
        compiled and recipe.train.precision == "bf16" and multiplies_bf16(pipeline.device)
    )
    return "integer" if pays_off and not reason else "float"


def _no_integers_reason(context: ExecutionContext) -> str:
    if context.device != "cpu":
        return f"there is no integer kernel for {context.device}"
    return "" if integer.is_available() else "torch has no integer kernel for this processor"


def compile_forward(module: nn.Module, *, batch_size: int) -> Forward:
    """Return what gives the module's outputs, compiled for batches of exactly ``batch_size``."""
    from torch._dynamo.exc import TorchDynamoException  # 0.8 s: not for those who never compile

    compiled = torch.compile(module, dynamic=False, options=_inductor_options())
    eager = eager_forward(module)

    def forward(images: Tensor) -> Tensor:
        if len(images) != batch_size:
            return eager(images)
        try:
            logits: Tensor = compiled(images)
        except TorchDynamoException as error:
            raise CannotCompile(f"{_first_error_line(error)}; {_COMPILER_HINT}") from error
        return logits

    return forward


def eager_forward(module: nn.Module, *, channels_last: bool = False) -> Forward:
    """Return what gives the module's outputs, also of images whose channels it has laid out last.

    Its weights stay as they are, so that evaluation goes on as ``verify`` will measure it.
    """
    views = views_may_copy(module, channels_last=channels_last)

    def forward(images: Tensor) -> Tensor:
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with views:
            logits: Tensor = module(images)
        return logits

    return forward


def _pays_off(
    recipe: Recipe, context: ExecutionContext, pipeline: DataPipeline, model: nn.Module
) -> tuple[bool, str]:
    """Return whether compiling pays off on this device, by an estimate, and why."""
    if context.device != "cpu":
        return True, ""
    images = recipe.train.epochs * len(pipeline.dataset.train)
    cost = model_cost(model, pipeline.input_shape)
    train_seconds = 3e-9 * cost.macs * images / (_GMAC_PER_SECOND * context.threads)
    layers = sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in model.modules())
    compile_seconds = _COMPILE_SECONDS_PER_LAYER * layers
    reason = (
        f"compiling the network: about {train_seconds / 3600:.1f} h of training "
        f"repay about {compile_seconds:.0f} "
        "s of compilation (`--compile off` does not)"
    )
    return _TIME_SAVED * train_seconds > _SAFETY_FACTOR * compile_seconds, reason


def _available(requested: bool, context: ExecutionContext) -> tuple[bool, list[str]]:
    if not requested:
        return False, []
    try:
        share_compile_cache(context.threads)
    except CannotCompile as error:
        if context.compile == "on":
            raise
        return False, [f"{error}; training goes on without"]
    reason = _unavailable_reason(torch.device(context.device))
    if reason:  # the compiler may have got the signal that ends the attempt
        check_own_stop(context)
    if reason and context.compile == "on":
        raise CannotCompile(f"{reason}; {_COMPILER_HINT}")
    return not reason, [f"{reason}; training goes on without"] if reason else []


def _unavailable_reason(device: torch.device) -> str:
    """Return why compiling does not work here, or nothing: compile a probe and run it."""
    compiled = torch.compile(_probe, dynamic=False)
    try:
        compiled(torch.zeros(8, device=device))
    except (RuntimeError, OSError) as error:
        return f"torch.compile does not work here: {_first_error_line(error)}"
    return ""


def _probe(x: Tensor) -> Tensor:
    return (x * 2 + 1).relu()


def share_compile_cache(threads: int) -> None:
    """Let all runs share what they compile, in one process with as many as training has threads.

    The code is made for this host's processor and for one number of threads. Raises CannotCompile
    where another account could have put code among it.
    """
    import torch._inductor.config as inductor
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    label = f"{platform.node()}-torch{torch.__version__}-{threads}"
    try:
        make_compile_cache(label, default=default_cache_dir())
    except (StoreError, OSError) as error:
        raise CannotCompile(f"no safe folder for what is compiled: {error}") from None
    inductor.compile_threads = max(1, threads)


def _first_error_line(error: Exception) -> str:
    """Return the first line of a compiler's error, without the backend's name."""
    lines = [line for line in str(error).splitlines() if line and not line.startswith("backend=")]
    return (lines or [type(error).__name__])[0].rstrip(".:")


def _inductor_options() -> dict[str, str | int | bool | Callable[..., object]]:
    """Divide as eager does, on a GPU too: an approximate quotient may fall into another code."""
    import torch._inductor.config as inductor

    name = "eager_numerics.division_rounding"
    return {name: True} if hasattr(inductor, "eager_numerics") else {}
