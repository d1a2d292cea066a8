"""What the network of somebody's own loop tells: its bits where its layers say them, its cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lsqctl.errors import UsageError
from lsqctl.events import COST_FIELDS
from lsqctl.quant.spec import FLOAT_BITS

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """What is known of a loop's network: its bits where its layers say them, and what it costs."""

    arch: str = ""
    device: str = "cpu"
    weight_bits: int = FLOAT_BITS
    act_bits: int = FLOAT_BITS
    params: int | None = None
    size_bytes: int | None = None
    naive_bytes: int | None = None
    macs: int | None = None
    bops: int | None = None
    first_last_bits: str = ""
    granularity: str = ""


def summarize_model(model: nn.Module | None, input_shape: tuple[int, ...] | None) -> ModelSummary:
    """Return what a network tells; its cost only where every bit of it is known here.

    That is a network that ``lsqctl.quant.prepare`` made, or one in full precision, for which
    MACs are counted for one input of ``input_shape`` (C, H, W). Raises UsageError for a shape that
    the network does not take.
    """
    if model is None:
        return ModelSummary()
    from lsqctl.quant import quantized_layers

    model = _unwrapped(model)
    layers = [*quantized_layers(model).values()]  # the first and the last have bits of their own
    device = next((str(parameter.device) for parameter in model.parameters()), "cpu")
    bits = Counter(
        tuple(
            FLOAT_BITS if quantizer is None else quantizer.spec.bits
            for quantizer in (layer.weight_quantizer, layer.input_quantizer)
        )
        for layer in layers[1:-1] or layers
    )
    weight_bits, act_bits = bits.most_common(1)[0][0] if bits else (FLOAT_BITS, FLOAT_BITS)
    values = _costs(model, input_shape)
    values |= {"arch": type(model).__name__, "device": device}
    values |= {"weight_bits": weight_bits, "act_bits": act_bits}
    return ModelSummary(**values)  # type: ignore[arg-type]  # as the fields are typed


def _unwrapped(model: object) -> nn.Module:
    """Return the network within those of torch.compile and of data parallel training."""
    from torch import nn

    if not isinstance(model, nn.Module):
        raise UsageError(f"model must be a network, an nn.Module, got {model!r:.60}")
    while isinstance(inner := getattr(model, "_orig_mod", None), nn.Module) or (
        isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
        and isinstance(inner := model.module, nn.Module)
    ):
        model = inner
    return model


def _costs(model: nn.Module, input_shape: tuple[int, ...] | None) -> dict[str, int | str]:
    from lsqctl.quant import model_cost
    from lsqctl.training.run_result import first_last_bits, weight_granularity

    if input_shape is None:
        return {"params": sum(parameter.numel() for parameter in model.parameters())}
    try:
        cost = model_cost(model, input_shape)
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UsageError(f"the model does not take an input of {input_shape}: {reason}") from None
    return {
        **{name: getattr(cost, name) for name in COST_FIELDS},
        "first_last_bits": first_last_bits(cost),
        "granularity": weight_granularity(model),
    }
