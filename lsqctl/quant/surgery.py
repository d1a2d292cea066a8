"""Swap a model's layers for quantized ones, in place, and say which stayed float and why."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized

from lsqctl.quant.attention import LayerSpecs, QuantMultiheadAttention, can_be_quantized
from lsqctl.quant.functional_linear import FunctionalLinear, data_layers, functional_layers
from lsqctl.quant.layers import QUANTIZED_CONVOLUTIONS, QuantLayer, QuantLinear
from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.residual import quantize_residuals
from lsqctl.quant.spec import QuantSpec, TensorSpec

# Layers that multiply by a weight and that we may meet without quantizing them.
_WEIGHTED_LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.Linear, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention),
    *(nn.Embedding, nn.EmbeddingBag),
)
_QUANTIZABLE = (*QUANTIZED_CONVOLUTIONS, nn.Linear)
_CONSTANT = "what it computes is constant once trained"
_NOT_PREPARED = "its weight and input have 32 bits, or the model is not prepared"


def prepare(model: nn.Module, spec: QuantSpec, example: Tensor | None = None) -> nn.Module:
    """Swap what ``model`` multiplies weights with for quantized layers; return it.

    That is every ``nn.Linear``, ``nn.Conv1d``, ``nn.Conv2d`` and transposed convolution of one or
    two dimensions, also of a subclass that computes as they do, the projections of every
    self-attention, and those whose weights torchvision's Swin passes to a function. A warning names
    the weights that stay float though their spec does not say so (``unquantized_layers`` says why).
    Layers that share a weight share its quantizer. Works in place; when ``model`` is itself such a
    layer, the new one is returned. Parameters stay the same objects, so an optimizer made
    earlier still holds the weights, but not the new step sizes: make it afterwards, from
    ``param_groups``. The first and the last layer are those that run first and last on ``example``,
    a batch of inputs (zeros will do), and without one those that are registered so; ``calibrate``
    warns where that is not the same. A layer with 32 bits for both tensors stays as it is. With
    ``residual_bits`` both inputs of the residual additions are quantized too. ``kernel: integer``
    multiplies codes on a CPU, where a layer can (``QuantLayer.float_reason``); ``auto`` is decided
    by a run, and is float here.

    Raises:
        ValueError: the model is prepared already, has no such layer, or has one with hooks or
            without a shape (lazy); layers with one weight have several specs for it; a glob of
            the overrides matches no layer, or no residual addition is known.
    """
    if quantizers(model):
        raise ValueError("the model is already prepared: build it anew to use another spec")
    _check_not_lazy(model)
    by_name = dict(_quantizable_layers(model))
    if not by_name:
        raise ValueError(f"{type(model).__name__} has no nn.Conv2d or nn.Linear to quantize")
    names = layer_names(model, example)
    if unmatched := spec.unmatched_overrides(names):
        raise ValueError(unmatched_glob_message(unmatched[0], names))
    specs: dict[nn.Module, list[LayerSpecs]] = {}
    for name, module in by_name.items():
        layer_specs = spec.layer_specs(name, first=name == names[0], last=name == names[-1])
        specs.setdefault(module, []).append(layer_specs)
    _check_tied_specs(by_name, specs)
    left_float = {
        name: reason
        for name, reason in unquantized_layers(model).items()
        if reason != _NOT_PREPARED
    }
    replacements = _quantized_copies(model, by_name, specs)
    for parent in list(model.modules()):
        for key, child in list(parent._modules.items()):
            if child in replacements:
                setattr(parent, key, replacements[child])
    residual = spec.activation_spec(spec.residual_bits)
    if residual.quantized:
        quantize_residuals(model, residual)
    prepared = replacements.get(model, model)
    _share_weight_quantizers(prepared)
    prepared_layers = quantized_layers(prepared)
    for name, position in ((names[-1], "last"), (names[0], "first")):
        if name in prepared_layers:
            prepared_layers[name].position = position
    if spec.kernel == "integer":
        for layer in prepared_layers.values():
            layer.kernel = "integer"
    _warn_of_float_weights(left_float)
    return prepared


def _is_uninitialized(module: nn.Module) -> bool:
    tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return any(
        isinstance(tensor, UninitializedParameter | UninitializedBuffer) for tensor in tensors
    )


def _check_not_lazy(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if _is_uninitialized(module):
            raise ValueError(
                f"layer {name!r} is lazy and has no shape yet: run one batch through the model "
                "before prepare"
            )


def _check_tied_specs(
    by_name: Mapping[str, nn.Module], specs: Mapping[nn.Module, list[LayerSpecs]]
) -> None:
    """Raise ValueError where layers share a weight that would lie on two grids."""
    first_use: dict[int, tuple[str, TensorSpec]] = {}
    for name, module in by_name.items():
        if isinstance(module, nn.MultiheadAttention):
            continue
        spec = specs[module][0][0]
        other_name, other = first_use.setdefault(id(module.weight), (name, spec))
        if other != spec:
            raise ValueError(
                f"layers {other_name!r} and {name!r} share one weight, of {other.bits} and of "
                f"{spec.bits} bits: give both the same settings with an override"
            )


def _share_weight_quantizers(model: nn.Module) -> None:
    """Give layers of one weight one quantizer for it, lest its step sizes drift apart."""
    by_weight: dict[int, LsqQuantizer] = {}
    for layer in quantized_layers(model).values():
        if layer.weight_quantizer is not None:
            weight_id = id(layer.master_weight)
            layer.weight_quantizer = by_weight.setdefault(weight_id, layer.weight_quantizer)


def _warn_of_float_weights(reasons: Mapping[str, str]) -> None:
    """Warn once, naming all, of weights that stay float without being told to."""
    if names := [name for name, reason in reasons.items() if reason != _CONSTANT]:
        warnings.warn(
            f"{len(names)} weights stay in float: {', '.join(names)}; unquantized_layers(model) "
            "says why",
            stacklevel=3,
        )


def layer_names(model: nn.Module, example: Tensor | None = None) -> list[str]:
    """Return the names of the layers that ``prepare`` may quantize, the first and last in place.

    Those are the ones that run first and last on ``example``; without one, or where none of them
    is called, all stand as they are registered.
    """
    by_name = dict(_quantizable_layers(model))
    called = [] if example is None else _called(model, set(by_name.values()), example)
    if len(by_name) < 2 or not called:
        return list(by_name)
    first = next(name for name, module in by_name.items() if module is called[0])
    last = [name for name, module in by_name.items() if module is called[-1] and name != first]
    between = [name for name in by_name if name not in {first, *last[-1:]}]
    return [first, *between, *last[-1:]]


def _called(model: nn.Module, layers: Set[nn.Module], example: Tensor) -> list[nn.Module]:
    """Return ``layers`` in the order in which the model calls them."""
    called: list[nn.Module] = []
    hooks = [
        layer.register_forward_pre_hook(lambda module, _: called.append(module)) for layer in layers
    ]
    try:
        with eval_mode(model), torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return called


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in eval mode for a while; each module gets its own training flag back."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training


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
    # A MultiheadAttention reads the weight of its out_proj and never calls it.
    read = {m.out_proj for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    for name, module in model.named_modules():
        if type(module) is nn.MultiheadAttention and can_be_quantized(module):
            yield from ((f"{name}.{part}".lstrip("."), module) for part in ("in_proj", "out_proj"))
        elif _computes_as_base(module) and module not in constant and module not in read:
            yield name, module


def _computes_as_base(module: nn.Module) -> bool:
    """Return whether it is a layer that we quantize, or a subclass that overrides no computation.

    A parametrized layer is of such a subclass, but its weight is computed at each use.
    """
    if isinstance(module, QuantLayer) or is_parametrized(module) or "forward" in vars(module):
        return False
    base: object = next((base for base in _QUANTIZABLE if isinstance(module, base)), None)
    names = ("forward", "__call__", "_conv_forward")
    return base is not None and all(
        getattr(type(module), name, None) is getattr(base, name, None) for name in names
    )


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
        yield name, _CONSTANT
    elif _computes_as_base(module):
        yield name, _NOT_PREPARED
    elif is_parametrized(module):
        yield name, "it is parametrized: remove that before prepare, and parametrize afterwards"
        return
    elif isinstance(module, _WEIGHTED_LAYERS) and not isinstance(module, QuantMultiheadAttention):
        yield name, f"{type(module).__name__} does not compute as nn.Linear or a convolution does"
    elif not data_layers(module) and not isinstance(module, QuantMultiheadAttention):
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.dim() == 2:
                yield f"{name}.{key}".lstrip("."), "a weight of its own, in no layer"
    for key, child in module.named_children():
        yield from _unquantized(child, f"{name}.{key}".lstrip("."), constant)


def _quantized_copies(
    model: nn.Module,
    by_name: Mapping[str, nn.Module],
    specs: Mapping[nn.Module, list[LayerSpecs]],
) -> dict[nn.Module, nn.Module]:
    """Return what stands for each layer of which a tensor is quantized."""
    functional = {
        getattr(owner, key) for owner in model.modules() for key in functional_layers(owner)
    }
    return {
        module: _quantized_copy(name, module, specs[module], functional=module in functional)
        for name, module in by_name.items()
        if any(tensor_spec.quantized for pair in specs[module] for tensor_spec in pair)
    }


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
    for base, quantized in QUANTIZED_CONVOLUTIONS.items():
        if isinstance(module, base):
            return quantized.from_float(module, *specs[0])
    assert isinstance(module, nn.Linear)
    return (FunctionalLinear if functional else QuantLinear).from_float(module, *specs[0])
