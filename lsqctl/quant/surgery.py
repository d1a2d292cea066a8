"""Swap a model's layers for quantized ones, in place, and say which stayed float and why."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from lsqctl.quant.layers import QuantConv2d, QuantLayer, QuantLinear
from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.spec import QuantSpec, TensorSpec

# Layers that multiply by a weight and that we may meet without quantizing them.
_WEIGHTED = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.Linear, nn.Bilinear, nn.RNNBase, nn.MultiheadAttention),
)


def prepare(model: nn.Module, spec: QuantSpec) -> nn.Module:
    """Swap every ``nn.Conv2d`` and ``nn.Linear`` of ``model`` for its quantized twin; return it.

    Works in place, on exact types only (a subclass may compute something else: see
    ``left_layers``); when ``model`` is itself such a layer, its twin is returned. Parameters stay
    the same objects, so an optimizer made earlier still holds the weights, but not the new step
    sizes: make it afterwards, from ``param_groups``. The first and the last layer are those of
    registration order. A layer with 32 bits for both tensors stays as it is.

    Raises:
        ValueError: the model is prepared already, has no such layer, or has one with hooks.
    """
    if quantized_layers(model):
        raise ValueError("the model is already prepared: build it anew to use another spec")
    layers = {name: m for name, m in model.named_modules() if type(m) in (nn.Conv2d, nn.Linear)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no nn.Conv2d or nn.Linear to quantize")
    names = list(layers)
    twins: dict[nn.Module, nn.Module] = {}
    for name, layer in layers.items():
        weight, activation = spec.layer(first=name == names[0], last=name == names[-1])
        if weight.quantized or activation.quantized:
            twins[layer] = _twin(name, layer, weight, activation)
    for parent in list(model.modules()):
        for key, child in list(parent._modules.items()):
            if child in twins:
                setattr(parent, key, twins[child])
    return twins.get(model, model)


def quantized_layers(model: nn.Module) -> dict[str, QuantLayer]:
    """Return the quantized layers by name, each once, in registration order."""
    return {n: m for n, m in model.named_modules() if isinstance(m, QuantConv2d | QuantLinear)}


def quantizers(model: nn.Module) -> dict[str, LsqQuantizer]:
    """Return every quantizer by name, each once, e.g. under ``layer1.0.conv1.weight_quantizer``."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LsqQuantizer)}


def left_layers(model: nn.Module) -> dict[str, str]:
    """Return the layers whose weights stay float, by name, each with the reason."""
    return dict(_left(model, ""))


def _left(module: nn.Module, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(module, QuantConv2d | QuantLinear):
        return
    if isinstance(module, nn.MultiheadAttention):
        yield name, "nn.MultiheadAttention uses in_proj and out_proj in one function of its own"
        return
    if type(module) in (nn.Conv2d, nn.Linear):
        yield name, "its weight and input have 32 bits, or the model is not prepared"
    elif isinstance(module, _WEIGHTED):
        yield name, f"{type(module).__name__} is neither nn.Conv2d nor nn.Linear itself"
    for key, child in module.named_children():
        yield from _left(child, f"{name}.{key}".lstrip("."))


def _twin(
    name: str, layer: nn.Module, weight_spec: TensorSpec, input_spec: TensorSpec
) -> QuantLayer:
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_hooks)
    if any(hooks) or layer._backward_pre_hooks:
        raise ValueError(
            f"layer {name!r} has hooks (weight_norm, or your own), which would be lost: remove "
            "them before prepare"
        )
    if isinstance(layer, nn.Conv2d):
        return QuantConv2d.from_float(layer, weight_spec, input_spec)
    assert isinstance(layer, nn.Linear)
    return QuantLinear.from_float(layer, weight_spec, input_spec)
