"""Swap a model's layers for quantized ones, in place, and say which stayed float and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from torch import nn

from lsqctl.quant.attention import QuantMultiheadAttention, Specs, can_be_quantized
from lsqctl.quant.borrowed import BorrowedLinear, borrows, takes_part
from lsqctl.quant.layers import QuantConv2d, QuantLayer, QuantLinear
from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.residual import quantize_residuals
from lsqctl.quant.spec import QuantSpec

# Layers that multiply by a weight and that we may meet without quantizing them.
_WEIGHTED = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.Linear, nn.Bilinear, nn.RNNBase, nn.MultiheadAttention),
)
_NOT_PREPARED = "its weight and input have 32 bits, or the model is not prepared"


def prepare(model: nn.Module, spec: QuantSpec) -> nn.Module:
    """Swap what ``model`` multiplies weights with for quantized twins; return it.

    That is every ``nn.Conv2d`` and ``nn.Linear``, the projections of every self-attention, and
    those whose weights torchvision's Swin passes to a function. Works in place, on exact types
    only (a subclass may compute something else: see ``left_layers``); when ``model`` is itself
    such a layer, its twin is returned. Parameters stay the same objects, so an optimizer made
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
    sites = dict(_sites(model))
    if not sites:
        raise ValueError(f"{type(model).__name__} has no nn.Conv2d or nn.Linear to quantize")
    names = list(sites)
    if unmatched := spec.unmatched(names):
        raise ValueError(no_such_layer(unmatched[0], names))
    specs: dict[nn.Module, list[Specs]] = {}
    for name, module in sites.items():
        own = spec.layer(name, first=name == names[0], last=name == names[-1])
        specs.setdefault(module, []).append(own)
    borrowed = {getattr(owner, key) for owner in model.modules() for key in borrows(owner)}
    twins = {
        module: _twin(name, module, specs[module], borrowed=module in borrowed)
        for name, module in sites.items()
        if any(one.quantized for pair in specs[module] for one in pair)
    }
    for parent in list(model.modules()):
        for key, child in list(parent._modules.items()):
            if child in twins:
                setattr(parent, key, twins[child])
    residual = spec.activation(spec.residual_bits)
    if residual.quantized:
        quantize_residuals(model, residual)
    return twins.get(model, model)


def layer_names(model: nn.Module) -> list[str]:
    """Return the names of the layers that ``prepare`` may quantize, the first and last in place."""
    return [name for name, _ in _sites(model)]


def no_such_layer(glob: str, names: Sequence[str]) -> str:
    """Return what is wrong with a glob that matches none of ``names``, with the nearest ones."""
    near = get_close_matches(glob, names, n=3, cutoff=0.0)
    return f"the override `{glob}` matches no layer; the nearest are {', '.join(near)}"


def quantized_layers(model: nn.Module) -> dict[str, QuantLayer]:
    """Return the quantized layers by name, each once, in registration order."""
    return {n: m for n, m in model.named_modules() if isinstance(m, QuantLayer)}


def quantizers(model: nn.Module) -> dict[str, LsqQuantizer]:
    """Return every quantizer by name, each once, e.g. under ``layer1.0.conv1.weight_quantizer``."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LsqQuantizer)}


def left_layers(model: nn.Module) -> dict[str, str]:
    """Return the layers whose weights stay float, by name, each with the reason."""
    return dict(_left(model, "", _constant_layers(model)))


def _sites(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield what is to be quantized by name; an attention twice, once for each projection."""
    constant = _constant_layers(model)
    for name, module in model.named_modules():
        if type(module) is nn.MultiheadAttention and can_be_quantized(module):
            yield from ((f"{name}.{part}".lstrip("."), module) for part in ("in_proj", "out_proj"))
        elif type(module) in (nn.Conv2d, nn.Linear) and module not in constant:
            yield name, module


def _constant_layers(model: nn.Module) -> set[nn.Module]:
    """Return the layers inside a borrower that see no data: they make its position bias."""
    return {
        layer
        for owner in model.modules()
        if (names := takes_part(owner))
        for name, child in owner.named_children()
        if name not in names
        for layer in child.modules()
        if isinstance(layer, _WEIGHTED)
    }


def _left(module: nn.Module, name: str, constant: set[nn.Module]) -> Iterator[tuple[str, str]]:
    if isinstance(module, QuantLayer):
        return
    if type(module) is nn.MultiheadAttention:
        fits = can_be_quantized(module)
        yield name, _NOT_PREPARED if fits else "its keys are of another width, or added to"
        return
    if module in constant:
        yield name, "what it computes is constant once trained"
    elif type(module) in (nn.Conv2d, nn.Linear):
        yield name, _NOT_PREPARED
    elif isinstance(module, _WEIGHTED) and not isinstance(module, QuantMultiheadAttention):
        yield name, f"{type(module).__name__} is neither nn.Conv2d nor nn.Linear itself"
    for key, child in module.named_children():
        yield from _left(child, f"{name}.{key}".lstrip("."), constant)


def _twin(name: str, module: nn.Module, specs: list[Specs], *, borrowed: bool) -> nn.Module:
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
    return (BorrowedLinear if borrowed else QuantLinear).from_float(module, *specs[0])
