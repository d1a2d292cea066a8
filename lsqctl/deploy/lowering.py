"""A traced network as a program of plain operations; what has none is refused by name."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from lsqctl.deploy.network import LAYER, Network, node_name, operation_of
from lsqctl.deploy.program import Operation, Program, pack
from lsqctl.deploy.runtime import Array
from lsqctl.errors import DataError
from lsqctl.quant.arithmetic import Grid, IntegerLayer

_BINARY = {"add": "add", "sub": "sub", "mul": "mul", "div": "div", "add_": "add", "mul_": "mul"}
_SAME = ("to", "dropout", "dropout_", "feature_dropout", "contiguous", "clone", "detach")
_HARD = ("hardswish", "hardswish_", "hardsigmoid", "hardsigmoid_")
_RESHAPED = ("flatten", "view", "reshape", "squeeze", "unsqueeze")
_CLAMPED = {"relu": (0, None), "relu_": (0, None), "relu6": (0, 6), "relu6_": (0, 6)}
_CLAMPS = "hardtanh hardtanh_ clamp clamp_ clamp_min clamp_min_ clamp_max clamp_max_".split()
Shape = tuple[int, int, int]


def lower(network: Network) -> Program:
    """Return the network as a program.  Raises DataError for an operation that has no place there.

    Such are LayerNorm, softmax, swish, and whatever works on more than (C, H, W).
    """
    if names := network.float_operations:
        raise _refusal(
            f"{', '.join(names)} (which each runtime computes as it sees fit: these promise bits)"
        )
    return _Lowering(network).run()


class _Lowering:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.operations: list[Operation] = []
        self.tensors: dict[str, Array] = {}
        self._numbers: dict[str, int] = {}  # of values, by the name of their node
        self._constants = _constants(network)

    def run(self) -> Program:
        """Take each node of the graph in its order."""
        for node in self.network.program.graph.nodes:
            if node.op == "call_function" and _value_of(node) is not None:
                self._take(node)
        _, *sizes = self.network.input_shape
        source = self._input()
        dtype = source.meta["val"].dtype
        return Program(
            _sizes(sizes), dtype == torch.uint8, tuple(self.operations), dict(self.tensors)
        )

    def _input(self) -> Node:
        (name,) = self.network.program.graph_signature.user_inputs
        node = next(one for one in self.network.program.graph.nodes if one.name == name)
        return cast("Node", node)

    def _take(self, node: Node) -> None:
        if not any(arg.name not in self._constants for arg in node.all_input_nodes):
            self._fold(node)
            return
        kind = _kind(node)
        shape = _image_shape(node)
        name = node_name(node)
        if name is not None:
            self._take_quantized(node, name, shape)
            return
        if kind in _SAME or (kind == "slice" and _is_whole(node)):
            self._numbers[node.name] = self._number(node.args[0])
        elif kind in _RESHAPED:
            self._add(node, "reshape", shape)
        elif kind in _BINARY:
            self._take_binary(node, _BINARY[kind], shape)
        elif kind in _HARD:
            self._take_hard(node, kind, shape)
        elif kind == "cat":
            self._take_concatenation(node, shape)
        elif kind in _TAKERS:
            self._add(node, *_TAKERS[kind](node, shape))
        else:
            raise _refusal(f"the operation {kind}")

    def _fold(self, node: Node) -> None:
        """Compute what is made of constants alone."""
        values = map_arg((node.args, node.kwargs), lambda one: self._constants[one.name])
        args, kwargs = cast("tuple[tuple[object, ...], Mapping[str, object]]", values)
        self._constants[node.name] = cast("Callable[..., Tensor]", node.target)(*args, **kwargs)

    def _number(self, arg: object) -> int:
        assert isinstance(arg, Node)
        return 0 if arg is self._input() else self._numbers[arg.name]

    def _add(
        self, node: Node, kind: str, shape: Shape, settings: Mapping[str, object] | None = None
    ) -> None:
        values = [a for a in node.all_input_nodes if _value_of(a) is not None]  # no sizes
        inputs = [a for a in values if a.name not in self._constants]
        numbers = tuple(self._number(one) for one in inputs)
        self._numbers[node.name] = self._append(kind, numbers, shape, settings)

    def _append(
        self,
        kind: str,
        numbers: tuple[int, ...],
        shape: Shape,
        settings: Mapping[str, object] | None = None,
    ) -> int:
        """Add an operation; return the number of its output."""
        self.operations.append(Operation(kind, numbers, shape, settings or {}))
        return len(self.operations)

    def _constant(self, values: Array) -> dict[str, object]:
        """Return the settings of an operation with a constant, which becomes a tensor."""
        name = f"constant{len(self.tensors)}"
        self.tensors[name] = values.reshape(-1)
        return {"constant": name}

    def _take_hard(self, node: Node, kind: str, shape: Shape) -> None:
        """Take x * clip(x + 3, 0, 6) / 6, or that without the factor, in the order of torch."""
        x = self._number(node.args[0])
        three, six = (self._constant(np.array([value], np.float32)) for value in (3, 6))
        ramp = self._append("add", (x,), shape, three)
        ramp = self._append("clamp", (ramp,), shape, {"low": 0, "high": 6})
        if kind.startswith("hardswish"):
            ramp = self._append("mul", (x, ramp), shape)
        self._numbers[node.name] = self._append("div", (ramp,), shape, six)

    def _take_binary(self, node: Node, kind: str, shape: Shape) -> None:
        if node.kwargs:
            raise _refusal(f"{kind} with {', '.join(node.kwargs)}")
        left, right = node.args
        if isinstance(left, Node) and left.name in self._constants:
            if kind not in ("add", "mul"):
                raise _refusal(f"a constant before {kind}")
            left, right = right, left
        constant = self._constants.get(right.name) if isinstance(right, Node) else right
        if constant is None:
            self._take_both(node, kind, shape)
            return
        values = np.asarray(constant, np.float32)
        by_channel = values.size == shape[0] and values.shape[-2:] in ((), (1, 1))
        if values.size != 1 and not by_channel:
            raise _refusal(f"{kind} with a constant of shape {values.shape}")
        self._add(node, kind, shape, self._constant(values))

    def _take_both(self, node: Node, kind: str, shape: Shape) -> None:
        """Take an operation of two values, the second of which may have one number a channel."""
        values = sorted(cast("Sequence[Node]", node.args), key=_is_by_channel)
        if kind not in ("add", "mul"):
            values = list(cast("Sequence[Node]", node.args))
        first, second = map(_image_shape, values)
        if first != shape or second not in (shape, (shape[0], 1, 1)):
            raise _refusal(f"{kind} of values of two shapes")
        left, right = map(self._number, values)
        self._numbers[node.name] = self._append(kind, (left, right), shape)

    def _take_concatenation(self, node: Node, shape: Shape) -> None:
        parts, dim = cast("Sequence[Node]", node.args[0]), (*node.args[1:], 0)[0]
        if dim not in (1, -len(node.meta["val"].shape) + 1):
            raise _refusal("a concatenation that is not of channels")
        if any(part.name in self._constants for part in parts):
            raise _refusal("a concatenation with a constant")
        numbers = tuple(map(self._number, parts))
        self._numbers[node.name] = self._append("concat", numbers, shape)

    def _take_quantized(self, node: Node, name: str, shape: Shape) -> None:
        grid = self.network.grid(name)
        settings = _grid_settings(grid)
        if node.args[1] != LAYER:
            self._quantized(node, "quantize", shape, settings)
            return
        layer = self.network.layers[name]
        settings |= {"name": name, **_layer_settings(layer)}
        self.tensors[f"{name}.codes"] = pack(layer.weight_codes.numpy(), layer.weight_bits)
        self.tensors[f"{name}.scale"] = layer.scale.numpy()
        self.tensors[f"{name}.shift"] = layer.shift.numpy()
        (source,) = cast("Sequence[Node]", node.args[0])
        if layer.window is None and source.meta["val"].dim() != 2:
            raise _refusal(f"the linear layer {name} on more than one row")
        self._quantized(node, "layer", shape, settings)

    def _quantized(self, node: Node, kind: str, shape: Shape, settings: dict[str, object]) -> None:
        (source,) = cast("Sequence[Node]", node.args[0])
        self._numbers[node.name] = self._append(kind, (self._number(source),), shape, settings)


def _refusal(what: str) -> DataError:
    return DataError(
        f"the forms c and codes have no place for {what}, which this network contains: "
        "use --form exact"
    )


def _kind(node: Node) -> str:
    """Return the operation of a node; of one part of several values, what gave them."""
    if node.target is operator.getitem:
        node = cast("Node", node.args[0])
    return operation_of(node) or node.name


def _value_of(node: Node) -> Tensor | None:
    """Return what torch knows of a node's value; None where it is no tensor."""
    value = node.meta.get("val")
    return value if isinstance(value, Tensor) else None


def _constants(network: Network) -> dict[str, Tensor]:
    program = network.program
    signature = program.graph_signature
    names = {**signature.inputs_to_buffers, **signature.inputs_to_parameters}
    names |= signature.inputs_to_lifted_tensor_constants
    state = {**program.state_dict, **program.constants}
    return {node: cast("Tensor", state[name]) for node, name in names.items() if name in state}


def _image_shape(node: Node) -> Shape:
    value = _value_of(node)
    assert value is not None
    _, *sizes = value.shape
    if len(sizes) not in (1, 3):
        raise _refusal(f"{_kind(node)} to {len(sizes)} dimensions (as where channels are shuffled)")
    return _sizes([operator.index(size) for size in sizes])


def _is_by_channel(node: Node) -> bool:
    return _image_shape(node)[1:] == (1, 1)


def _sizes(sizes: Sequence[int]) -> Shape:
    if len(sizes) not in (1, 3):
        raise _refusal(f"images of shape {tuple(sizes)}")
    channels, height, width = (*sizes, 1, 1)[:3]
    return channels, height, width


def _grid_settings(grid: Grid) -> dict[str, object]:
    offset = None if grid.offset is None else float(grid.offset)
    return {
        "step": float(grid.step),
        "offset": offset,
        "low": grid.quant_min,
        "high": grid.quant_max,
    }


def _layer_settings(layer: IntegerLayer) -> dict[str, object]:
    shape = tuple(layer.weight_codes.shape)
    window = layer.window
    if window is not None and (window.pad_mode != "constant" or len(window.stride) != 2):
        raise _refusal(f"the padding of the layer {layer.name}")
    return {
        "zero_code": layer.grid.zero_code,
        "bits": layer.weight_bits,
        "weight": [*shape, 1, 1][:4],
        "stride": list(window.stride) if window else [1, 1],
        "padding": [n for pair in window.padding for n in pair] if window else [0, 0, 0, 0],
        "dilation": list(window.dilation) if window else [1, 1],
        "groups": window.groups if window else 1,
    }


Taken = tuple[str, Shape, Mapping[str, object]]


def _clamp(node: Node, shape: Shape) -> Taken:
    operation = operation_of(node)
    defaults: tuple[object, ...] = (None, None) if operation.startswith("clamp") else (-1, 1)
    given = (None, *node.args[1:]) if operation.startswith("clamp_max") else node.args[1:]
    low, high = _CLAMPED.get(operation, (*given, *defaults[len(given) :]))
    if any(isinstance(end, Node) for end in (low, high)):
        raise _refusal(f"{operation} between values")
    return "clamp", shape, {"low": low, "high": high}


def pair(value: object) -> list[int]:
    """Return a setting of both spatial dimensions, as torch writes it, as two numbers."""
    values = list(cast("Sequence[int]", value)) if isinstance(value, Sequence) else [value]
    return [int(cast("int", one)) for one in (values * 2)[:2]]


def _max_pool(node: Node, shape: Shape) -> Taken:
    _, kernel, *rest = node.args
    stride, padding, dilation = (*rest, *(kernel, 0, 1)[len(rest) :])[:3]
    if not stride:
        stride = kernel
    settings = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    return "max_pool", shape, {key: pair(value) for key, value in settings.items()}


def _mean_pool(node: Node, shape: Shape) -> Taken:
    """Take a mean over windows without padding, each of them full."""
    _, kernel, *rest = node.args
    stride = rest[0] if rest and rest[0] else kernel
    if any(any(pair(one)) for one in rest[1:2]) or any(rest[2:3]):
        raise _refusal("a mean over windows that reach beyond the image")
    settings = {"kernel": kernel, "stride": stride, "padding": 0, "dilation": 1}
    return "mean_pool", shape, {key: pair(value) for key, value in settings.items()}


def _is_whole(node: Node) -> bool:
    """Return whether a slice takes everything, as those of the batch do."""
    (source, *_), step = node.all_input_nodes, [*node.args, *(0, 0, 0, 1)[len(node.args) - 1 :]][4]
    return bool(step == 1) and _image_shape(node) == _image_shape(source)


def _slice(node: Node, shape: Shape) -> Taken:
    defaults: tuple[object, ...] = (None, 0, 0, None, 1)
    arguments: list[object] = [*node.args, *defaults[len(node.args) :]]
    dim, start, step = (arguments[position] for position in (1, 2, 4))
    starts, steps = [0, 0, 0], [1, 1, 1]
    if dim != 0:
        index = int(cast("int", dim)) - 1
        size = _image_shape(cast("Node", node.args[0]))[index]
        starts[index] = max(0, int(cast("int", start)) + (size if cast("int", start) < 0 else 0))
        steps[index] = int(cast("int", step))
    return "slice", shape, {"start": starts, "step": steps}


def _pad(node: Node, shape: Shape) -> Taken:
    amounts = list(cast("Sequence[int]", node.args[1]))
    if any(one not in ("constant", None, 0) for one in node.args[2:]) or min(amounts) < 0:
        raise _refusal("padding with other values than zero")
    before = [*amounts[::2], 0, 0, 0][:3]
    return "pad", shape, {"before": before[::-1]}


_TAKERS: Mapping[str, Callable[[Node, Shape], Taken]] = {
    **dict.fromkeys((*_CLAMPED, *_CLAMPS), _clamp),
    "max_pool2d": _max_pool,
    "avg_pool2d": _mean_pool,
    "slice": _slice,
    "pad": _pad,
}
