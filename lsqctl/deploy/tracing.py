"""Trace a prepared model into a graph whose quantized layers are single nodes with integer values.

A copy of the model gets stand-ins: a quantized layer becomes one symbolic node that bears its name,
a batch norm that alone reads such a node is folded into the layer, every other one becomes a
product and a sum. A mean over an image becomes one over windows, whose order of summation is the
same everywhere. All other operations stay as torch exports them.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Graph, Node
from torch.nn.modules.batchnorm import _BatchNorm

from lsqctl.deploy.network import LAYER, QUANTIZER, Network, layer_node_name
from lsqctl.errors import DataError
from lsqctl.quant import LsqQuantizer, quantized_layers, quantizers
from lsqctl.quant.arithmetic import Grid, IntegerLayer, NotInteger, integer_layer, norm_affine
from lsqctl.quant.layers import QuantLayer

_FOLDED = "folded_gain", "folded_bias"
BATCH = 2  # of the sample that is traced; torch takes 0 and 1 for constants


@dataclass(frozen=True, slots=True)
class Pixels:
    """How bytes become a network's input: /255, less ``mean``, through ``std``, per channel.

    ``channels`` is what the network takes; images of one channel are repeated to it.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int


def trace(model: nn.Module, image_shape: tuple[int, ...], pixels: Pixels | None = None) -> Network:
    """Return a prepared, calibrated model (or a float one) as a network of integer layers.

    ``image_shape`` is (C, H, W) of what comes in: bytes with ``pixels``, else normalized fp32.

    Raises:
        DataError: a layer has no integer form, or torch cannot export the model; one line.
    """
    copied = copy.deepcopy(model).eval().float().cpu().requires_grad_(False)
    _check_calibrated(copied)
    whole = FromPixels(copied, pixels) if pixels is not None else copied
    dtype = torch.uint8 if pixels is not None else torch.float32
    sample = torch.zeros((BATCH, *image_shape), dtype=dtype)
    layers = {
        name: layer
        for name, layer in quantized_layers(copied).items()
        if layer.input_quantizer is not None and layer.weight_quantizer is not None
    }
    norms = _insert_stand_ins(whole, copied, layers, sample)
    integer = {name: _integer(name, layer, norms.get(name)) for name, layer in layers.items()}
    grids = {name: Grid.of(q) for name, q in _own_quantizers(copied, layers)}
    return Network(
        _export(whole, sample), integer, grids, _float_layers(copied), tuple(sample.shape)
    )


def _integer(name: str, layer: QuantLayer, norm: _BatchNorm | None) -> IntegerLayer:
    try:
        return integer_layer(name, layer, norm)
    except NotInteger as error:
        raise DataError(str(error)) from None


def _check_calibrated(model: nn.Module) -> None:
    for name, quantizer in quantizers(model).items():
        if not quantizer.calibrated:
            raise DataError(
                f"the quantizer {name} has no step size yet: calibrate and train the model first"
            )


def _float_layers(model: nn.Module) -> dict[str, str]:
    """Return the prepared layers with one float operand, each with what is float."""
    return {
        name: "its input has 32 bits" if layer.input_quantizer is None else "its weight has 32 bits"
        for name, layer in quantized_layers(model).items()
        if layer.input_quantizer is None or layer.weight_quantizer is None
    }


class FromPixels(nn.Module):
    """A network that takes bytes (B, C, H, W), and normalizes as training does, to the bit."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, pixels: Pixels) -> None:
        super().__init__()
        self.network = network
        self.channels = pixels.channels
        self.register_buffer("mean", torch.tensor(pixels.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(pixels.std)[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (B, classes) of bytes."""
        images = (pixels.float() / 255 - self.mean) / self.std
        if images.shape[1] == 1 < self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        logits: Tensor = self.network(images)
        return logits


def _own_quantizers(
    model: nn.Module, layers: dict[str, QuantLayer]
) -> Iterator[tuple[str, LsqQuantizer]]:
    """Yield quantizers of activations that are no integer layer's: residual and lone ones."""
    inside = {
        quantizer
        for layer in layers.values()
        for quantizer in (layer.input_quantizer, layer.weight_quantizer)
    }
    for name, quantizer in quantizers(model).items():
        if quantizer not in inside and quantizer.batched:
            yield name, quantizer


def _insert_stand_ins(
    whole: nn.Module, model: nn.Module, layers: dict[str, QuantLayer], sample: Tensor
) -> dict[str, _BatchNorm]:
    """Replace what computes; return the batch norm that is folded into each layer, by its name."""
    for name, quantizer in _own_quantizers(model, layers):
        _replace_forward(quantizer, _QuantizerStandIn(name))
    for layer in quantized_layers(model).values():
        if layer.input_quantizer is None and layer.weight_quantizer is not None:
            with torch.no_grad():
                layer.master_weight.copy_(layer.weight_quantizer(layer.master_weight))
            _replace_forward(layer.weight_quantizer, _same)
    for name, layer in layers.items():
        _replace_forward(layer, _LayerStandIn(name, layer))
    norms = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    norms = {name: norm for name, norm in norms.items() if norm.running_mean is not None}
    if not norms:
        return {}
    prefix = "" if whole is model else "network."
    folded = _foldable(_export(whole, sample), prefix)
    for norm in norms.values():
        is_folded = any(norms.get(name) is norm for name in folded.values())
        _replace_forward(norm, _same if is_folded else _NormStandIn(norm))
    return {layer: norms[norm] for layer, norm in folded.items() if norm in norms}


def _replace_forward(module: nn.Module, forward: Callable[..., Tensor]) -> None:
    """Compute otherwise; hooks, as those that quantize residual additions, stay."""
    module.forward = forward


def _same(x: Tensor, *rest: object) -> Tensor:
    return x


def _symbolic(op: str, name: str, x: Tensor, shape: Sequence[int]) -> Tensor:
    from torch.onnx import ops

    return ops.symbolic(
        f"lsq::{op}", (x,), {"name": name}, dtype=torch.float32, shape=shape, version=1
    )


class _QuantizerStandIn:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, x: Tensor, numel: int | None = None) -> Tensor:
        return _symbolic(QUANTIZER, self.name, x, x.shape)


class _LayerStandIn:
    """One node for a layer; a bias that the caller passes is added to it, as a float."""

    def __init__(self, name: str, layer: QuantLayer) -> None:
        self.name = name
        self.layer = (layer,)  # in a tuple: it belongs to the model

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        weight = self.layer[0].master_weight
        shape = [*x.shape[:-1], weight.shape[0]]
        if weight.dim() > 2:
            shape = [x.shape[0], weight.shape[0], *self._spatial(x)]
        out = _symbolic(LAYER, self.name, x, shape)
        return out if bias is None else out + bias

    def _spatial(self, x: Tensor) -> Iterator[int]:
        conv = cast("nn.Conv2d", self.layer[0])
        padding: list[int] = conv._reversed_padding_repeated_twice
        for i, size in enumerate(x.shape[2:]):
            back = 2 * (len(conv.kernel_size) - 1 - i)
            padded = size + padding[back] + padding[back + 1]
            yield (padded - conv.dilation[i] * (conv.kernel_size[i] - 1) - 1) // conv.stride[i] + 1


class _NormStandIn:
    """A batch norm of its own: one product and one sum in fp32."""

    def __init__(self, norm: _BatchNorm) -> None:
        for name, value in zip(_FOLDED, norm_affine(norm, norm.num_features), strict=True):
            norm.register_buffer(name, value.float())
        self.norm = (norm,)

    def __call__(self, x: Tensor) -> Tensor:
        shape = (-1, *(1,) * (x.dim() - 2))
        gain, bias = (self.norm[0].get_buffer(name).view(shape) for name in _FOLDED)
        return x * gain + bias


def _export(model: nn.Module, sample: Tensor) -> ExportedProgram:
    batch = Dim.DYNAMIC
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        try:
            program = torch.export.export(model, (sample,), dynamic_shapes=({0: batch},))
        except (RuntimeError, ValueError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise DataError(f"torch cannot export this network: {first_line}") from None
    return _with_ordered_means(program)


def _with_ordered_means(program: ExportedProgram) -> ExportedProgram:
    """Return a program in which means over images are means over windows, row by row.

    torch and onnxruntime sum a mean as their vectors are wide; the numbers of a window
    (``avg_pool2d``, ``AveragePool``) both of them add one by one.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if (kernel := _window_of_mean(node)) is None:
            continue
        with graph.inserting_before(node):
            mean = _call(graph, _AVERAGE, cast("Node", node.args[0]), kernel)
            if mean.meta["val"].dim() != node.meta["val"].dim():
                mean = _call(graph, torch.ops.aten.flatten.using_ints, mean, 1)
        node.replace_all_uses_with(mean)
        graph.erase_node(node)
    program.graph_module.recompile()
    return program


_AVERAGE = torch.ops.aten.avg_pool2d.default


def _call(
    graph: Graph, operation: Callable[..., Tensor], source: Node, argument: int | list[int]
) -> Node:
    """Add an operation on a node, with what torch knows of its value."""
    node = graph.call_function(operation, (source, argument))
    node.meta["val"] = operation(source.meta["val"], argument)
    return node


def _window_of_mean(node: Node) -> list[int] | None:
    """Return the windows (height, width) of a mean over images (B, C, H, W), None for others."""
    if node.target not in (torch.ops.aten.mean.dim, torch.ops.aten.adaptive_avg_pool2d.default):
        return None
    source = cast("Node", node.args[0]).meta["val"]
    if source.dim() != 4:
        return None
    sizes, wanted = list(source.shape[2:]), cast("list[int]", node.args[1])
    if node.target is torch.ops.aten.mean.dim:
        return sizes if {dim % 4 for dim in wanted} == {2, 3} and not node.kwargs else None
    whole = all(size % count == 0 for size, count in zip(sizes, wanted, strict=True))
    return [size // count for size, count in zip(sizes, wanted, strict=True)] if whole else None


def _foldable(program: ExportedProgram, prefix: str) -> dict[str, str]:
    """Return, by layer, the batch norm that reads it and nothing else does; each used once."""
    buffers = program.graph_signature.inputs_to_buffers
    calls: Counter[str] = Counter()
    pairs: dict[str, str] = {}
    for node in program.graph.nodes:
        if (name := layer_node_name(node)) is not None:
            calls[name] += 1
        elif (norm := _norm_name(node, buffers)) is not None:
            calls[norm] += 1
            source = node.args[0]
            layer = layer_node_name(source)
            if layer is not None and len(source.users) == 1:
                pairs[layer] = norm
    return {
        layer: norm.removeprefix(prefix)
        for layer, norm in pairs.items()
        if calls[layer] == calls[norm] == 1
    }


def _norm_name(node: Node, buffers: dict[str, str]) -> str | None:
    if node.op != "call_function" or "batch_norm" not in str(node.target):
        return None
    names = [buffers.get(arg.name, "") for arg in node.args if isinstance(arg, Node)]
    means = [name for name in names if name.endswith(".running_mean")]
    return means[0].removesuffix(".running_mean") if means else None
