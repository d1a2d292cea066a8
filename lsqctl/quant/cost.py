"""Count what a model costs, without running it: MACs, bit operations, bytes.

Size is what a deployed model stores: codes packed to their bits, 4 bytes for each step size, for
each offset, for each bias and for each float weight, and 8 for each channel of a batch norm
(folded to a scale and a shift). Bit operations are MACs * weight bits * activation bits, 32 * 32
for what is float; sparsity is not discounted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from lsqctl.quant.layers import QuantLayer
from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.spec import FLOAT_BITS
from lsqctl.quant.surgery import eval_mode, quantizers
from lsqctl.quant.torch_faults import layer_input

OTHER_LAYER = "(other)"

_Layer = QuantLayer | nn.Conv2d | nn.Linear


@dataclass(frozen=True, slots=True)
class LayerCost:
    """The cost of one layer for one input; the layer "(other)" is all that is no such layer.

    ``params`` leaves step sizes out, so that a prepared model has as many as the float one.
    ``naive_bytes`` is params * b / 8, with b the bits that most weights of the model have.
    """

    name: str
    weight_bits: int
    act_bits: int
    params: int
    macs: int
    size_bytes: int
    naive_bytes: int

    @property
    def bops(self) -> int:
        """MACs * weight bits * activation bits."""
        return self.macs * self.weight_bits * self.act_bits


@dataclass(frozen=True, slots=True)
class ModelCost:
    """The cost of a model for one input: its layers in registration order, and their sums."""

    layers: tuple[LayerCost, ...]
    params: int
    macs: int
    bops: int
    size_bytes: int
    naive_bytes: int


def model_cost(model: nn.Module, input_shape: tuple[int, ...]) -> ModelCost:
    """Return what ``model`` costs for one input of ``input_shape``, e.g. ``(3, 224, 224)``.

    The model is float or prepared, calibrated or not. It is traced on the meta device: nothing is
    computed, and parameters, statistics and training flags stay as they were. A layer used twice
    counts its MACs twice and its bytes once.
    """
    by_name: dict[str, _Layer] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QuantLayer) or type(module) in (nn.Conv2d, nn.Linear)
    }
    macs, all_macs = _count_macs(model, by_name, input_shape)
    step_ids = {id(p) for quantizer in quantizers(model).values() for p in quantizer.parameters()}
    sizes = {id(p): p.numel() for p in model.parameters() if id(p) not in step_ids}
    steps = _learned_sizes(model)
    params = sum(sizes.values())
    common_bits = _common_bits(by_name)
    layers = [
        _layer_cost(name, layer, macs[name], (sizes, steps), common_bits)
        for name, layer in by_name.items()
    ]
    other = _other_cost(model, sum(sizes.values()), all_macs - macs.total(), common_bits)
    layers.append(replace(other, size_bytes=other.size_bytes + 4 * sum(steps.values())))
    return ModelCost(
        layers=tuple(layer for layer in layers if layer.params or layer.macs),
        params=params,
        macs=all_macs,
        bops=sum(layer.bops for layer in layers),
        size_bytes=sum(layer.size_bytes for layer in layers),
        naive_bytes=_packed_bytes(params, common_bits),
    )


def _count_macs(
    model: nn.Module, layers: dict[str, _Layer], input_shape: tuple[int, ...]
) -> tuple[Counter[str], int]:
    """Return the MACs of each layer, and those of the whole model."""
    macs: Counter[str] = Counter()
    state = _state_on_meta(model)
    dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)
    inputs = torch.empty(1, *input_shape, dtype=dtype, device="meta")

    def counter(name: str) -> Callable[..., None]:
        return lambda layer, inputs, by_name, output: macs.update(
            {name: _layer_macs(layer, layer_input(inputs, by_name), output)}
        )

    handles = [
        layer.register_forward_hook(counter(name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        with eval_mode(model), torch.no_grad(), FlopCounterMode(display=False) as flops:
            functional_call(model, state, (inputs,), tie_weights=False)
    finally:
        for handle in handles:
            handle.remove()
    return macs, flops.get_total_flops() // 2


def _state_on_meta(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers without values, of each module by its first name.

    By two names torch would take the second one's for the module's own, and leave it there.
    """
    return {
        f"{name}.{key}".lstrip("."): torch.empty_like(tensor, device="meta")
        for name, module in model.named_modules()
        for key, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    }


def _layer_macs(layer: _Layer, x: Tensor, output: Tensor) -> int:
    transposed = getattr(layer, "transposed", False)  # each input value meets weight[i]
    return (x if transposed else output).numel() * _float_weight(layer)[0].numel()


def _layer_cost(
    name: str,
    layer: _Layer,
    macs: int,
    uncounted: tuple[dict[int, int], dict[int, int]],
    common_bits: int,
) -> LayerCost:
    """Count one layer; ``uncounted`` weights and steps lose what is counted here.

    So tied weights, and the quantizer that they share, count once.
    """
    weight_bits, act_bits = _layer_bits(layer)
    sizes, step_sizes = uncounted
    weights = sizes.pop(id(_float_weight(layer)), 0)
    biases = sizes.pop(id(layer.bias), 0)
    steps = sum(step_sizes.pop(parameter, 0) for parameter in _learned_sizes(layer))
    return LayerCost(
        name=name,
        weight_bits=weight_bits,
        act_bits=act_bits,
        params=weights + biases,
        macs=macs,
        size_bytes=_packed_bytes(weights, weight_bits) + 4 * (biases + steps),
        naive_bytes=_packed_bytes(weights + biases, common_bits),
    )


def _other_cost(model: nn.Module, params: int, macs: int, common_bits: int) -> LayerCost:
    """Count what is in no layer: norms, embeddings, attention; 4 bytes for each parameter.

    A batch norm without parameters still folds to a scale and a shift of its statistics.
    """
    bare_channels = sum(
        module.num_features
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not module.affine
        and module.track_running_stats
    )
    size = 4 * params + 8 * bare_channels
    return LayerCost(
        OTHER_LAYER, FLOAT_BITS, FLOAT_BITS, params, macs, size, _packed_bytes(params, common_bits)
    )


def _learned_sizes(module: nn.Module) -> dict[int, int]:
    """Return how many values each step size and offset in use has, by its id."""
    return {
        id(parameter): parameter.numel()
        for quantizer in quantizers(module).values()
        for parameter in quantizer.learned_parameters
    }


def _float_weight(layer: _Layer) -> Tensor:
    return layer.master_weight if isinstance(layer, QuantLayer) else layer.weight


def _layer_bits(layer: _Layer) -> tuple[int, int]:
    if not isinstance(layer, QuantLayer):
        return FLOAT_BITS, FLOAT_BITS
    return _quantizer_bits(layer.weight_quantizer), _quantizer_bits(layer.input_quantizer)


def _quantizer_bits(quantizer: LsqQuantizer | None) -> int:
    return FLOAT_BITS if quantizer is None else quantizer.spec.bits


def _common_bits(layers: dict[str, _Layer]) -> int:
    """Return the bits that most weights have; 32 where there are none."""
    votes: Counter[int] = Counter()
    for layer in layers.values():
        votes[_layer_bits(layer)[0]] += _float_weight(layer).numel()
    return votes.most_common(1)[0][0] if votes else FLOAT_BITS


def _packed_bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)
