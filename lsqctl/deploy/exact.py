"""The exact form: ONNX whose integer layers give the reference's codes to the last bit.

A convolution is written as slices of its input, side by side, times a matrix, for onnxruntime's
``ConvInteger`` is slow; grouped ones keep it. The accumulator becomes fp32 and is scaled and
shifted by two operations, as the reference says. Where a certificate proves integers that do the
same for every input, ``QLinearConv`` gives the next layer's codes at once. Weights of which two
products could pass 16 bits are bytes around 128, whose products every processor adds in 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch.fx import Node

from lsqctl.deploy.certificate import Requantization, is_pair_safe
from lsqctl.deploy.lowering import pair
from lsqctl.deploy.network import Edge, Network
from lsqctl.deploy.onnx_graph import GraphWriter, Integers, add_scale_and_shift
from lsqctl.deploy.runtime import Array
from lsqctl.quant.arithmetic import Grid, IntegerLayer, Window

_ONNX_PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
MICROSOFT = "com.microsoft"
_MIDDLE = 128
POINTWISE = Window((1,), ((0, 0),), (1,), 1, "constant")


@dataclass(frozen=True, slots=True)
class ExactForm:
    """Integer matrix products; ``plain`` uses standard operators only.

    Otherwise onnxruntime's ``MatMulIntegerToFloat`` does product, scale and shift at once.
    ``proofs`` has, by layer, the edge that it gives and the integers that are proved for it.
    """

    network: Network
    plain: bool = False
    proofs: Mapping[str, tuple[Edge, Requantization]] = field(default_factory=dict)

    @property
    def opset_imports(self) -> Mapping[str, int]:
        """What the file needs beside the standard operators."""
        return {} if self.plain else {MICROSOFT: 1}

    def quantizer(self, graph: GraphWriter, edge: str, x: str) -> str:
        """Add codes and what they stand for."""
        grid = self.network.grid(edge)
        codes = _codes(graph, edge, grid, x)
        values = graph.add(
            "DequantizeLinear", codes, graph.constant(grid.step.numpy()), _zero_point(graph, grid)
        )
        if grid.offset is None:
            return values
        return graph.add("Add", values, graph.constant(grid.offset.numpy()))

    def layer(self, graph: GraphWriter, edge: str, x: str) -> str:
        """Add codes, accumulators, scale and shift."""
        layer = self.network.layers[edge]
        codes = _codes(graph, edge, layer.grid, x)
        if edge in self.proofs:
            target, proof = self.proofs[edge]
            given = _requantized(graph, layer, codes, (self.network.grid(target.name), proof))
            for pool in target.pools:
                given = _pooled(graph, pool, given)
            graph.given_codes[target.name] = given
            return given
        if layer.window is None:
            return self._product(graph, layer, codes, layer.weight_codes.numpy().T)
        if layer.window.groups > 1 or len(layer.window.stride) != 2:
            return _grouped(graph, layer, codes)
        columns = add_columns(graph, layer, codes)
        kernel = layer.weight_codes.numpy().transpose(3, 2, 1, 0)  # (kw, kh, I, O)
        out = self._product(graph, layer, columns, kernel.reshape(-1, kernel.shape[-1]))
        return graph.add("Transpose", out, perm=[0, 3, 1, 2])

    def _product(self, graph: GraphWriter, layer: IntegerLayer, codes: str, weight: Array) -> str:
        """Add (…, K) times (K, O), scaled and shifted."""
        matrix, weight_zero_point = add_weights(graph, layer, np.ascontiguousarray(weight))
        zero_point = _zero_point(graph, layer.grid)
        if self.plain:
            acc = graph.add("MatMulInteger", codes, matrix, zero_point, weight_zero_point)
            return add_scale_and_shift(graph, layer, _as_float(graph, acc), (-1,))
        scale, shift = (graph.constant(t.numpy()) for t in (layer.scale, layer.shift))
        one = graph.constant(1.0)
        return graph.add(
            "MatMulIntegerToFloat",
            codes,
            matrix,
            one,
            scale,
            zero_point,
            weight_zero_point,
            shift,
            domain=MICROSOFT,
        )


def add_weights(
    graph: GraphWriter, layer: IntegerLayer, codes: Array, factors: Integers | None = None
) -> tuple[str, str]:
    """Add weight codes, by ``factors`` if any, and the zero point that they have."""
    if is_pair_safe(layer, factors):
        weight = graph.weight_codes(codes, layer.weight_bits, factors)
        return weight, graph.constant(0, np.int8)
    whole = codes.astype(np.int64) * (1 if factors is None else factors)
    return graph.constant(whole + _MIDDLE, np.uint8), graph.constant(_MIDDLE, np.uint8)


def _codes(graph: GraphWriter, edge: str, grid: Grid, x: str) -> str:
    """Add the codes of an edge, unless the layer before has given them."""
    given = graph.given_codes.get(edge)
    return graph.tap(edge, add_codes(graph, grid, x) if given is None else given)


def _requantized(
    graph: GraphWriter, layer: IntegerLayer, codes: str, target: tuple[Grid, Requantization]
) -> str:
    """Add a layer that gives the codes of the next one; a linear one as a convolution of 1."""
    grid, proof = target
    weight, window = layer.weight_codes.numpy(), layer.window or POINTWISE
    if layer.window is None:
        axes = graph.constant([2], np.int64)
        codes, weight = graph.add("Unsqueeze", codes, axes), weight[..., None]
    pads, codes = add_window_padding(graph, layer, codes)
    factors = proof.factors.reshape(-1, *(1,) * (weight.ndim - 1))
    one, zero_point = graph.constant(1.0), _zero_point(graph, grid)
    codes_of_weight, weight_zero_point = add_weights(graph, layer, weight, factors)
    out = graph.convolve(
        "QLinearConv",
        window,
        codes,
        one,
        _zero_point(graph, layer.grid),
        codes_of_weight,
        graph.constant(proof.multipliers),
        weight_zero_point,
        one,
        zero_point,
        graph.constant(proof.biases, np.int32),
        pads=pads,
    )
    if layer.window is None:
        out = graph.add("Squeeze", out, axes)
    return _clipped(graph, out, proof.first_code - grid.quant_min, proof.last_code - grid.quant_min)


def _pooled(graph: GraphWriter, pool: Node, codes: str) -> str:
    """Add a maximum over windows of codes, as torch takes it of values; padding is never one."""
    _, kernel, *given = pool.args
    defaults: tuple[object, ...] = ([], 0, 1, False)
    settings: tuple[object, ...] = (*given, *defaults[len(given) :])
    stride, padding, dilation, ceil_mode = settings
    return graph.add(
        "MaxPool",
        codes,
        kernel_shape=pair(kernel),
        strides=pair(stride or kernel),
        pads=pair(padding) * 2,
        dilations=pair(dilation),
        ceil_mode=int(bool(ceil_mode)),
    )


def add_window_padding(
    graph: GraphWriter, layer: IntegerLayer, codes: str
) -> tuple[list[int], str]:
    """Return the padding that a convolution does itself, which is of codes of 0, and its input.

    Of a kernel of 1 × 1 that moves by a stride it does none: OpenVINO starts it in the image then.
    """
    if layer.window is None:
        return [0, 0], codes
    starts_inside = {*layer.weight_codes.shape[2:]} == {1} != {*layer.window.stride}
    if layer.window.pad_mode != "constant" or layer.grid.zero_code or starts_inside:
        padded = add_padding(graph, layer, codes, channels_last=False)
        return [0] * 2 * len(layer.window.padding), padded
    return [pair[side] for side in (0, 1) for pair in layer.window.padding], codes


def add_codes(graph: GraphWriter, grid: Grid, x: str) -> str:
    """Add the codes of ``x`` as bytes, code - quant_min; the lower clip is the byte's own."""
    if grid.offset is not None:
        x = graph.add("Sub", x, graph.constant(grid.offset.numpy()))
    step = graph.constant(grid.step.numpy())
    codes = graph.add("QuantizeLinear", x, step, _zero_point(graph, grid))
    return _clipped(graph, codes, 0, grid.quant_max - grid.quant_min)


def _clipped(graph: GraphWriter, codes: str, lowest: int, highest: int) -> str:
    if (lowest, highest) == (0, 255):
        return codes
    limits = (graph.constant(limit, np.uint8) for limit in (lowest, highest))
    return graph.add("Clip", codes, *limits)


def _zero_point(graph: GraphWriter, grid: Grid) -> str:
    return graph.constant(-grid.quant_min, np.uint8)


def _as_float(graph: GraphWriter, accumulators: str) -> str:
    from onnx import TensorProto

    return graph.add("Cast", accumulators, to=TensorProto.FLOAT)


def add_padding(graph: GraphWriter, layer: IntegerLayer, codes: str, *, channels_last: bool) -> str:
    """Add the padding of a convolution: codes of zero, or of the image itself."""
    assert layer.window is not None
    window = layer.window
    if not any(amount for pair in window.padding for amount in pair):
        return codes
    ends = []
    for side in (0, 1):
        spatial = [pair[side] for pair in window.padding]
        ends += [0, *spatial, 0] if channels_last else [0, 0, *spatial]
    pads = graph.constant(ends, np.int64)
    if window.pad_mode != "constant":
        return graph.add("Pad", codes, pads, mode=_ONNX_PAD_MODES[window.pad_mode])
    zero = graph.constant(layer.grid.zero_code - layer.grid.quant_min, np.uint8)
    return graph.add("Pad", codes, pads, zero)


def _grouped(graph: GraphWriter, layer: IntegerLayer, codes: str) -> str:
    """Add a convolution of groups, or of one dimension, by ``ConvInteger``."""
    assert layer.window is not None
    window = layer.window
    x = add_padding(graph, layer, codes, channels_last=False)
    weight, weight_zero_point = add_weights(graph, layer, layer.weight_codes.numpy())
    operands = x, weight, _zero_point(graph, layer.grid), weight_zero_point
    accumulators = graph.convolve("ConvInteger", window, *operands)
    shape = (-1, *(1,) * len(window.stride))
    return add_scale_and_shift(graph, layer, _as_float(graph, accumulators), shape)


def add_columns(graph: GraphWriter, layer: IntegerLayer, codes: str) -> str:
    """Add what each output pixel reads, side by side: (B, C, H, W) to (B, H', W', kw kh C).

    Rows first, then columns of what was laid together: 6 slices for 3x3 where each weight's pixels
    by themselves are 9, and longer runs of bytes.
    """
    assert layer.window is not None
    x = graph.add("Transpose", codes, perm=[0, 2, 3, 1])
    x = add_padding(graph, layer, x, channels_last=True)
    for dimension, size in enumerate(layer.weight_codes.shape[2:]):
        x = _side_by_side(graph, layer.window, x, dimension, size)
    return x


def _side_by_side(graph: GraphWriter, window: Window, x: str, dimension: int, size: int) -> str:
    """Add what the weights along one spatial dimension meet, as channels."""
    stride, dilation = window.stride[dimension], window.dilation[dimension]
    if size == stride == 1:
        return x
    axis, step = (graph.constant([value], np.int64) for value in (dimension + 1, stride))
    slices = []
    for position in range(size):
        rest = (size - 1 - position) * dilation
        # the end is counted from the far side
        bounds = position * dilation, -rest if rest else np.iinfo(np.int64).max
        ends = (graph.constant([value], np.int64) for value in bounds)
        slices.append(graph.add("Slice", x, *ends, axis, step))
    return slices[0] if size == 1 else graph.add("Concat", *slices, axis=3)
