"""A traced network as values: the graph, its integer layers, and the reference that runs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Interpreter, Node

from lsqctl.quant.arithmetic import Grid, IntegerLayer

LAYER, QUANTIZER = "Layer", "Quantizer"  # the symbolic nodes, of the domain lsq

Observer = Callable[[str, Tensor], None]

# Operations that act on each number alone and never decrease: a code stays a staircase behind them.
_MONOTONE = set("relu relu_ relu6 clamp clamp_ clamp_min clamp_max hardtanh hardtanh_".split())
_POOLS = {"max_pool2d"}  # the largest of codes is the code of the largest
_SAME = {"dropout", "dropout_", "feature_dropout", "clone", "contiguous"}  # in evaluation
_RESHAPING = set("flatten unflatten view reshape unsqueeze squeeze permute transpose".split())
_RESHAPING |= {"movedim", "moveaxis", "swapaxes", "swapdims"}
_MOVING = set("cat stack slice select split chunk pad expand roll to alias lift_fresh_copy".split())
_MOVING |= set("narrow flip repeat channel_shuffle pixel_shuffle pixel_unshuffle detach".split())
_MOVING |= set("zeros zeros_like ones ones_like full full_like upsample_nearest2d".split())
_CHOOSING = {"maximum", "minimum", "amax", "amin", "abs", "threshold", "adaptive_max_pool2d"}
_ROUNDING_ONCE = set("avg_pool2d add sub rsub mul div neg hardswish hardsigmoid".split())
_ROUNDING_ONCE |= {"leaky_relu", "prelu"}
_SAME_BITS = _MONOTONE | _POOLS | _SAME | _RESHAPING | _MOVING | _CHOOSING | _ROUNDING_ONCE


@dataclass(frozen=True, slots=True)
class Edge:
    """A quantized tensor and where it comes from.

    Its codes are a function of one integer where one layer, the ``source``, decides them through
    monotone operations (``between``): in all channels, or in those of ``channels`` where the other
    summand of an addition is padding. ``pools`` are maxima over windows on the way, which may as
    well be taken of the codes. ``summands`` are the two quantizers whose values, added, become the
    codes: a function of two codes. ``reason`` says why that layer cannot give the codes by
    itself; empty where it can.
    """

    name: str
    source: str | None = None
    between: tuple[Node, ...] = ()
    reason: str = ""
    channels: tuple[int, ...] | None = None
    pools: tuple[Node, ...] = ()
    summands: tuple[str, ...] = ()

    @property
    def finite(self) -> bool:
        """Whether the source may give the codes by itself."""
        return not self.reason

    def through(self, outputs: Tensor) -> Tensor:
        """Return what the source's outputs have become when they are quantized."""
        for node in self.between:
            outputs = cast("Callable[..., Tensor]", node.target)(outputs, *node.args[1:])
        return outputs


@dataclass(frozen=True, slots=True)
class Network:
    """A network whose quantized layers are integers; all else is as torch exported it.

    ``layers`` and ``grids`` (of quantizers that are no integer layer's) are by the names of their
    modules; ``float_layers`` says what is float in prepared layers that are no integer ones.
    ``input_shape`` is (B, C, H, W); B may be any.
    """

    program: ExportedProgram
    layers: Mapping[str, IntegerLayer]
    grids: Mapping[str, Grid]
    float_layers: Mapping[str, str]
    input_shape: tuple[int, ...]

    @property
    def edges(self) -> list[str]:
        """The names of all quantized tensors, in the order of the graph."""
        names = (node_name(node) for node in self.program.graph.nodes)
        return [name for name in names if name is not None]

    @property
    def float_operations(self) -> list[str]:
        """What computes in fp32 as each runtime sees fit: its last bits are nobody's promise."""
        names = {
            operation_of(node)
            for node in self.program.graph.nodes
            if isinstance(node.meta.get("val"), Tensor)
        }
        return sorted({name.removesuffix("_") for name in names} - _SAME_BITS - {""})

    def traced_edges(self) -> list[Edge]:
        """Return each quantized tensor with its source, in the order of the graph."""
        nodes = [node for node in self.program.graph.nodes if node_name(node) is not None]
        calls = Counter(map(node_name, nodes))
        return [_traced_edge(node, calls) for node in nodes]

    def grid(self, edge: str) -> Grid:
        """Return the grid of a quantized tensor."""
        return self.grids[edge] if edge in self.grids else self.layers[edge].grid

    @torch.no_grad()
    def __call__(self, images: Tensor, observe: Observer = lambda _edge, _codes: None) -> Tensor:
        """Return logits (B, classes) of the integer reference, fp32.

        ``observe`` gets the name of each quantized tensor and its codes, whole numbers in fp32.
        """
        logits: Tensor = _Reference(self, observe).run(images)
        return logits


class _Reference(Interpreter):
    """Runs the graph; the symbolic nodes by LSQ's integer arithmetic."""

    def __init__(self, network: Network, observe: Observer) -> None:
        super().__init__(network.program.module(check_guards=False))
        self.network = network
        self.observe = observe

    def run_node(self, n: Node) -> object:
        """Return what a node computes."""
        name = node_name(n)
        if name is None:
            return super().run_node(n)
        (inputs, *_), _ = self.fetch_args_kwargs_from_env(n)
        grid = self.network.grid(name)
        codes = grid.codes(inputs[0])
        self.observe(name, codes)
        layer = self.network.layers.get(name)
        if layer is None:
            return grid.values(codes)
        return layer.outputs(layer.accumulators(codes))


def node_name(node: object) -> str | None:
    """Return the name of the module that a symbolic node stands for, None for other nodes."""
    if not isinstance(node, Node) or "onnx_symbolic" not in str(node.target):
        return None
    name: str = node.kwargs["attr_strs"][0]  # type: ignore[index, assignment]
    return name


def layer_node_name(node: object) -> str | None:
    """Return the name of the layer that a symbolic node stands for, None for other nodes."""
    name = node_name(node)
    return name if name and isinstance(node, Node) and node.args[1] == LAYER else None


def _traced_edge(consumer: Node, calls: Counter[str | None]) -> Edge:
    """Walk back from what a symbolic node quantizes to the layer that decides it."""
    name = cast("str", node_name(consumer))
    path: list[Node] = []
    node = _walk_back(cast("list[Node]", consumer.args[0])[0], path)
    between = tuple(one for one in reversed(path) if operation_of(one) in _MONOTONE)
    pools = tuple(one for one in reversed(path) if operation_of(one) in _POOLS)
    source, reason = layer_node_name(node), ""
    channels: tuple[int, ...] | None = None
    if source is None:
        reason = _obstacle(node)
        source, channels = _padded_sum(node)
    if source is None:
        return Edge(name, None, between, reason, summands=_summands(node))
    if calls[source] > 1 or calls[name] > 1:
        return Edge(name, reason="a layer is called more than once")
    if not reason and node.meta["val"].dim() == 3:
        reason = f"{source} gives three dimensions"
    if not reason and any(len(one.users) > 1 for one in (node, *path)):
        reason = f"others read {source}, too"
    return Edge(name, source, between, reason, channels, pools)


def _walk_back(node: Node, path: list[Node]) -> Node:
    """Return what stands before operations that keep the order of values, added to ``path``."""
    while layer_node_name(node) is None and _keeps_order(node):
        path.append(node)
        node = cast("Node", node.args[0])
    return node


def _keeps_order(node: Node) -> bool:
    """Return whether a node keeps the order of the values of its only input."""
    is_known = operation_of(node) in _MONOTONE | _POOLS | _SAME
    return is_known and len(node.all_input_nodes) == 1


def _padded_sum(node: Node) -> tuple[str | None, tuple[int, ...] | None]:
    """Return the layer of a sum, and the channels in which the other summand is padded zeros."""
    if operation_of(node) not in {"add", "add_"} or len(node.args) != 2 or node.kwargs:
        return None, None
    for one, other in (node.args, node.args[::-1]):
        source = layer_node_name(one)
        if source is not None and isinstance(other, Node) and operation_of(other) == "pad":
            amounts = cast("list[int]", other.args[1])
            if len(other.args) == 2 and len(amounts) == 6 and not any(amounts[:4]):
                n_channels = int(other.meta["val"].shape[1])
                before, after = amounts[4:]
                return source, (*range(before), *range(n_channels - after, n_channels))
    return None, None


def _summands(node: Node) -> tuple[str, ...]:
    """Return the two quantizers whose values a node adds; () for any other node."""
    if operation_of(node) not in {"add", "add_"} or len(node.args) != 2 or node.kwargs:
        return ()
    quantized = [one for one in node.args if layer_node_name(one) is None]
    names = [name for name in map(node_name, quantized) if name is not None]
    return tuple(names) if len(names) == 2 else ()


def operation_of(node: Node) -> str:
    """Return the name of an operation of torch, nothing for any other."""
    parts = str(node.target).split(".")
    return parts[1] if parts[0] == "aten" else ""


def _obstacle(node: Node) -> str:
    if node.op == "placeholder":
        return "it is the input"
    if node_name(node) is not None:
        return "a quantizer gives it"
    first = node
    while operation_of(node) in _RESHAPING | _MONOTONE | _SAME and isinstance(node.args[0], Node):
        node = node.args[0]  # what moves numbers is the reason where nothing else is
    last = first if layer_node_name(node) is not None else node
    return f"{operation_of(last) or last.name} stands between"
