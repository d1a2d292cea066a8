"""The exact form: ONNX whose integer layers give the reference's codes to the last bit.

A convolution is written as slices of its input, side by side, times a matrix, for onnxruntime's
``ConvInteger`` is slow; grouped ones keep it. The accumulator becomes fp32 and is scaled and
shifted by two operations, as the reference says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from lsqctl.deploy.network import Network
from lsqctl.deploy.onnx_graph import GraphWriter
from lsqctl.deploy.runtime import Array
from lsqctl.quant.arithmetic import Grid, IntegerLayer, Window

_ONNX_PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
MICROSOFT = "com.microsoft"


@dataclass(frozen=True, slots=True)
class ExactForm:
    """Integer matrix products; ``plain`` uses standard operators only.

    Otherwise onnxruntime's ``MatMulIntegerToFloat`` does product, scale and shift at once.
    """

    network: Network
    plain: bool = False

    @property
    def opset_imports(self) -> Mapping[str, int]:
        """What the file needs beside the standard operators."""
        return {} if self.plain else {MICROSOFT: 1}

    def quantizer(self, graph: GraphWriter, edge: str, x: str) -> str:
        """Add codes and what they stand for."""
        grid = self.network.grid(edge)
        codes = graph.tap(edge, add_codes(graph, grid, x))
        values = graph.add(
            "DequantizeLinear", codes, graph.constant(grid.step.numpy()), _zero_point(graph, grid)
        )
        if grid.offset is None:
            return values
        return graph.add("Add", values, graph.constant(grid.offset.numpy()))

    def layer(self, graph: GraphWriter, edge: str, x: str) -> str:
        """Add codes, accumulators, scale and shift."""
        layer = self.network.layers[edge]
        codes = graph.tap(edge, add_codes(graph, layer.grid, x))
        if layer.window is None:
            return self._product(graph, layer, codes, layer.weight_codes.numpy().T)
        if layer.window.groups > 1 or len(layer.window.stride) != 2:
            return _grouped(graph, layer, codes)
        columns = add_columns(graph, layer, codes)
        kernel = layer.weight_codes.numpy().transpose(2, 3, 1, 0)  # (kh, kw, I, O)
        out = self._product(graph, layer, columns, kernel.reshape(-1, kernel.shape[-1]))
        return graph.add("Transpose", out, perm=[0, 3, 1, 2])

    def _product(self, graph: GraphWriter, layer: IntegerLayer, codes: str, weight: Array) -> str:
        """Add (…, K) times (K, O), scaled and shifted."""
        matrix = graph.weight_codes(np.ascontiguousarray(weight), layer.weight_bits)
        zero_point = _zero_point(graph, layer.grid)
        scale, shift = (graph.constant(t.numpy()) for t in (layer.scale, layer.shift))
        if self.plain:
            acc = graph.add("MatMulInteger", codes, matrix, zero_point)
            return _scaled(graph, acc, scale, shift)
        one, no_zero_point = graph.constant(1.0), ""
        return graph.add(
            "MatMulIntegerToFloat",
            codes,
            matrix,
            one,
            scale,
            zero_point,
            no_zero_point,
            shift,
            domain=MICROSOFT,
        )


def add_codes(graph: GraphWriter, grid: Grid, x: str) -> str:
    """Add the codes of ``x`` as bytes, code - quant_min; the lower clip is the byte's own."""
    if grid.offset is not None:
        x = graph.add("Sub", x, graph.constant(grid.offset.numpy()))
    step = graph.constant(grid.step.numpy())
    codes = graph.add("QuantizeLinear", x, step, _zero_point(graph, grid))
    highest = grid.quant_max - grid.quant_min
    if highest == 255:
        return codes
    limits = (graph.constant(limit, np.uint8) for limit in (0, highest))
    return graph.add("Clip", codes, *limits)


def _zero_point(graph: GraphWriter, grid: Grid) -> str:
    return graph.constant(-grid.quant_min, np.uint8)


def _scaled(graph: GraphWriter, accumulators: str, scale: str, shift: str) -> str:
    from onnx import TensorProto

    as_float = graph.add("Cast", accumulators, to=TensorProto.FLOAT)
    return graph.add("Add", graph.add("Mul", as_float, scale), shift)


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
    weight = graph.weight_codes(layer.weight_codes.numpy(), layer.weight_bits)
    accumulators = graph.add(
        "ConvInteger",
        x,
        weight,
        _zero_point(graph, layer.grid),
        strides=list(window.stride),
        dilations=list(window.dilation),
        group=window.groups,
    )
    shape = (-1, *(1,) * len(window.stride))
    scale, shift = (graph.constant(t.numpy().reshape(shape)) for t in (layer.scale, layer.shift))
    return _scaled(graph, accumulators, scale, shift)


def add_columns(graph: GraphWriter, layer: IntegerLayer, codes: str) -> str:
    """Add what each output pixel reads, side by side: (B, C, H, W) to (B, H', W', kh kw C)."""
    assert layer.window is not None
    x = graph.add("Transpose", codes, perm=[0, 2, 3, 1])
    x = add_padding(graph, layer, x, channels_last=True)
    taps = list(product(*(range(size) for size in layer.weight_codes.shape[2:])))
    if len(taps) == 1 and set(layer.window.stride) == {1}:
        return x
    slices = [_slice(graph, layer.window, x, tap, layer.weight_codes.shape[2:]) for tap in taps]
    return slices[0] if len(slices) == 1 else graph.add("Concat", *slices, axis=3)


def _slice(
    graph: GraphWriter, window: Window, x: str, tap: tuple[int, ...], kernel: tuple[int, ...]
) -> str:
    """Add every pixel that one weight of the kernel meets; ends count from the far side."""
    starts, ends = [], []
    for position, size, dilation in zip(tap, kernel, window.dilation, strict=True):
        starts.append(position * dilation)
        rest = (size - 1 - position) * dilation
        ends.append(-rest if rest else np.iinfo(np.int64).max)
    axes = graph.constant([1, 2], np.int64)
    bounds = (graph.constant(values, np.int64) for values in (starts, ends))
    return graph.add("Slice", x, *bounds, axes, graph.constant(list(window.stride), np.int64))


def pair_bound(layer: IntegerLayer) -> int:
    """Return what two neighbouring products of bytes may add up to, in magnitude.

    Processors with AVX2 and no VNNI add such pairs in 16 bits: above 32,767 they saturate, and the
    accumulator is wrong there.
    """
    codes = layer.weight_codes.numpy().astype(np.int64)
    if codes.ndim > 2:
        codes = np.moveaxis(codes, 1, -1)
    flat = codes.reshape(len(codes), -1)
    flat = np.pad(flat, ((0, 0), (0, flat.shape[1] % 2)))
    pairs = flat.reshape(len(flat), -1, 2)
    sums = [np.clip(pairs, low, high).sum(-1) for low, high in ((0, None), (None, 0))]
    highest_byte = layer.grid.quant_max - layer.grid.quant_min
    return int(max(abs(one).max() for one in sums)) * highest_byte
