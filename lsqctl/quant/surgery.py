"""Swap a model's layers for quantized ones, in place, and say which stayed float and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from torch import nn

from lsqctl.quant.attention import LayerSpecs, QuantMultiheadAttention, can_be_quantized
from lsqctl.quant.layers import (
    FunctionalLinear,
    QuantConv2d,
    QuantLayer,
    QuantLinear,
    data_layers,
    functional_layers,
)
from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.residual import quantize_residuals
from lsqctl.quant.spec import QuantSpec

# Layers that multiply by a weight and that we may meet without quantizing them.
_WEIGHTED_LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.Linear, nn.Bilinear, nn.RNNBase, nn.MultiheadAttention),
)
_NOT_PREPARED = "its weight and input have 32 bits, or the model is not prepared"


def prepare(model: nn.Module, spec: QuantSpec) -> nn.Module:
    """Swap what ``model`` multiplies weights with for quantized layers; return it.

    That is every ``nn.Conv2d`` and ``nn.Linear``, the projections of every self-attention, and
    those whose weights torchvision's Swin passes to a function. Works in place, on exact types
    only (a subclass may differ: see ``unquantized_layers``); when ``model`` is itself
    such a layer, the new one is returned. Parameters stay the same objects, so an optimizer made
    earlier still holds the weights, but not the new step sizes: make it afterwards, from
    ``param_groups``. The first and the last layer are those of registration order. A layer with 32
    bits for both tensors stays as it is. With ``residual_bits`` both inputs of the residual
    additions are quantized too.

    Raises:
        ValueError: the model is prepared already, has no such layer, or has one with hooks; a
            glob of the overrides matches no layer, or no residual addition is known.
    """
    if quantizers(model):
        raise ValueError("the model is already prepared: build it anew to use another spec")
    by_name = dict(_quantizable_layers(model))
    if not by_name:
        raise ValueError(f"{type(model).__name__} has no nn.Conv2d or nn.Linear to quantize")
    names = list(by_name)
    if unmatched := spec.unmatched_overrides(names):
        raise ValueError(unmatched_glob_message(unmatched[0], names))
    specs: dict[nn.Module, list[LayerSpecs]] = {}
    for name, module in by_name.items():
        layer_specs = spec.layer_specs(name, first=name == names[0], last=name == names[-1])
        specs.setdefault(module, []).append(layer_specs)
    functional = {
        getattr(owner, key) for owner in model.modules() for key in functional_layers(owner)
    }
    replacements = {
        module: _quantized_copy(name, module, specs[module], functional=module in functional)
        for name, module in by_name.items()
        if any(tensor_spec.quantized for pair in specs[module] for tensor_spec in pair)
    }
    for parent in list(model.modules()):
        for key, child in list(parent._modules.items()):
            if child in replacements:
                setattr(parent, key, replacements[child])
    residual = spec.activation_spec(spec.residual_bits)
    if residual.quantized:
        quantize_residuals(model, residual)
    return replacements.get(model, model)


def layer_names(model: nn.Module) -> list[str]:
    """Return the names of the layers that ``prepare`` may quantize, the first and last in place."""
    return [name for name, _ in _quantizable_layers(model)]


def unmatched_glob_message(glob: str, names: Sequence[str]) -> str:
    """Return what is wrong with a glob that matches none of ``names``, with the nearest ones."""
    nearest = get_close_matches(glob, names, n=3, cutoff=0.0)
    return f"the override `{glob}` matches no layer; the nearest are {', '.join(nearest)}"


def quantized_layers(model: nn.Module) -> dict[str, QuantLayer]:
    """Return the quantized layers by name, each once, in registration order."""
    return {n: m for n, m in model.named_modules() if isinstance(m, QuantLayer)}


def quantizers(model: nn.Module) -> dict[str, LsqQuantizer]:
    """Return every quantizer by name, each once, e.g. under ``layer1.0.conv1.weight_quantizer``."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LsqQuantizer)}


def unquantized_layers(model: nn.Module) -> dict[str, str]:
    """Return the layers whose weights stay float, by name, each with the reason."""
    return dict(_unquantized(model, "", _constant_layers(model)))


def _quantizable_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield what is to be quantized by name; an attention twice, once for each projection."""
    constant = _constant_layers(model)
    for name, module in model.named_modules():
        if type(module) is nn.MultiheadAttention and can_be_quantized(module):
            yield from ((f"{name}.{part}".lstrip("."), module) for part in ("in_proj", "out_proj"))
        elif type(module) in (nn.Conv2d, nn.Linear) and module not in constant:
            yield name, module


def _constant_layers(model: nn.Module) -> set[nn.Module]:
    """Return the layers of functional owners that see no data: they make its position bias."""
    return {
        layer
        for owner in model.modules()
        if (names := data_layers(owner))
        for name, child in owner.named_children()
        if name not in names
        for layer in child.modules()
        if isinstance(layer, _WEIGHTED_LAYERS)
    }


def _unquantized(
    module: nn.Module, name: str, constant: set[nn.Module]
) -> Iterator[tuple[str, str]]:
    if isinstance(module, QuantLayer):
        return
    if type(module) is nn.MultiheadAttention:
        supported = can_be_quantized(module)
        yield name, _NOT_PREPARED if supported else "its keys are of another width, or added to"
        return
    if module in constant:
        yield name, "what it computes is constant once trained"
    elif type(module) in (nn.Conv2d, nn.Linear):
        yield name, _NOT_PREPARED
    elif isinstance(module, _WEIGHTED_LAYERS) and not isinstance(module, QuantMultiheadAttention):
        yield name, f"{type(module).__name__} is neither nn.Conv2d nor nn.Linear itself"
    for key, child in module.named_children():
        yield from _unquantized(child, f"{name}.{key}".lstrip("."), constant)


def _quantized_copy(
    name: str, module: nn.Module, specs: list[LayerSpecs], *, functional: bool
) -> nn.Module:
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_hooks)
    if any(hooks) or module._backward_pre_hooks:
        raise ValueError(
            f"layer {name!r} has hooks (weight_norm, or your own), which would be lost: remove "
            "them before prepare"
        )
    if isinstance(module, nn.MultiheadAttention):
        packed, out = specs
        return QuantMultiheadAttention.from_float(module, packed, out)
    if isinstance(module, nn.Conv2d):
        return QuantConv2d.from_float(module, *specs[0])
    assert isinstance(module, nn.Linear)
    return (FunctionalLinear if functional else QuantLinear).from_float(module, *specs[0])
