"""Trace a prepared model into a graph whose quantized layers are single nodes with integer values.

A copy of the model gets stand-ins: a quantized layer becomes one symbolic node that bears its name,
a batch norm that alone reads such a node is folded into the layer, every other one becomes a
product and a sum. A mean over an image becomes one over windows, whose order of summation is the
same everywhere. All other operations stay as torch exports them.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Graph, Node
from torch.nn.modules.batchnorm import _BatchNorm

from lsqctl.deploy.network import LAYER, QUANTIZER, Network
from lsqctl.errors import DataError
from lsqctl.quant import LsqQuantizer, quantized_layers, quantizers
from lsqctl.quant.arithmetic import (
    Grid,
    IntegerLayer,
    NotInteger,
    integer_layer,
    window_of_mean,
    window_of_pool,
)
from lsqctl.quant.integer_network import fold_norms, integer_layers, replace_forward
from lsqctl.quant.layers import QuantLayer

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
    layers = integer_layers(copied)
    n_channels = image_shape[0] if pixels is None else pixels.channels
    norms = _insert_stand_ins(copied, layers, (n_channels, *image_shape[1:]))
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
    model: nn.Module, layers: dict[str, QuantLayer], image_shape: tuple[int, ...]
) -> dict[str, _BatchNorm]:
    """Replace what computes; return the batch norm that is folded into each layer, by its name."""
    norms = fold_norms(model, layers, torch.zeros((1, *image_shape)))
    for name, quantizer in _own_quantizers(model, layers):
        replace_forward(quantizer, _QuantizerStandIn(name))
    for layer in quantized_layers(model).values():
        if layer.input_quantizer is None and layer.weight_quantizer is not None:
            with torch.no_grad():
                layer.master_weight.copy_(layer.weight_quantizer(layer.master_weight))
            replace_forward(layer.weight_quantizer, _same)
    for name, layer in layers.items():
        replace_forward(layer, _LayerStandIn(name, layer))
    return norms


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


def _export(model: nn.Module, sample: Tensor) -> ExportedProgram:
    batch = Dim.DYNAMIC
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        try:
            program = torch.export.export(model, (sample,), dynamic_shapes=({0: batch},))
        except (RuntimeError, ValueError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise DataError(f"torch cannot export this network: {first_line}") from None
    _check_operations(program)
    return _by_windows(program)


def _check_operations(program: ExportedProgram) -> None:
    """Raise DataError for outputs that are no logits, and what torch writes otherwise in ONNX."""
    outputs = [one for one in program.graph.output_node().args[0] if isinstance(one, Node)]
    shapes = [tuple(one.meta["val"].shape) for one in outputs]
    if [*map(len, shapes)] != [2] or not program.call_spec.out_spec.is_leaf():
        given = " and ".join(str(("B", *shape[1:])).replace("'", "") for shape in shapes)
        raise DataError(f"this network gives {given}, not a tensor of logits (B, classes) alone")
    for node in program.graph.nodes:
        if node.target is _AVERAGE and len(node.args) == 7 and node.args[6] is not None:
            raise DataError("avg_pool2d with divisor_override has no form: scale its mean instead")


def _by_windows(program: ExportedProgram) -> ExportedProgram:
    """Return a program in which means and maxima over images are those over windows.

    torch and onnxruntime sum a mean as their vectors are wide; the numbers of a window
    (``avg_pool2d``, ``AveragePool``) both of them add one by one, row by row. A maximum is the same
    number; ONNX has no adaptive one, and OpenVINO gives others for one over axes (``ReduceMax``).
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        source = node.args[0] if node.args else None
        taken = source if node.target is operator.getitem else node
        if not isinstance(taken, Node) or (kernel := _window(taken, node)) is None:
            continue
        pool = _AVERAGE if taken.target in _MEANS else _MAXIMUM
        with graph.inserting_before(taken):
            pooled = _call(graph, pool, cast("Node", taken.args[0]), kernel)
            if pooled.meta["val"].dim() != node.meta["val"].dim():
                pooled = _call(graph, torch.ops.aten.flatten.using_ints, pooled, 1)
        node.replace_all_uses_with(pooled)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


_AVERAGE, _MAXIMUM = torch.ops.aten.avg_pool2d.default, torch.ops.aten.max_pool2d.default
_MEANS = torch.ops.aten.mean.dim, torch.ops.aten.adaptive_avg_pool2d.default
_REDUCTIONS = torch.ops.aten.mean.dim, torch.ops.aten.amax.default
_ADAPTIVE = torch.ops.aten.adaptive_avg_pool2d.default, torch.ops.aten.adaptive_max_pool2d.default


def _call(
    graph: Graph, operation: Callable[..., Tensor], source: Node, argument: int | list[int]
) -> Node:
    """Add an operation on a node, with what torch knows of its value."""
    node = graph.call_function(operation, (source, argument))
    node.meta["val"] = operation(source.meta["val"], argument)
    return node


def _window(node: Node, given: Node) -> list[int] | None:
    """Return the windows (height, width) of a mean or maximum over images, None for others.

    ``given`` is the node of its values: itself, or the first of two where it gives places, too.
    """
    if node.target not in (*_REDUCTIONS, *_ADAPTIVE) or len(node.args) < 2 or node.kwargs:
        return None
    if not isinstance(given.meta.get("val"), Tensor) or (given is not node and given.args[1] != 0):
        return None
    shape = cast("Node", node.args[0]).meta["val"].shape
    wanted = cast("list[int]", node.args[1])
    return (window_of_mean if node.target in _REDUCTIONS else window_of_pool)(shape, wanted)
