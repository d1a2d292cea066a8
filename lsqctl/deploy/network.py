"""A traced network as values: the graph, its integer layers, and the reference that runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Interpreter, Node

from lsqctl.quant.arithmetic import Grid, IntegerLayer

LAYER, QUANTIZER = "Layer", "Quantizer"  # the symbolic nodes, of the domain lsq

Observer = Callable[[str, Tensor], None]


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
