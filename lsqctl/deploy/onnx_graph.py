"""Write a traced network as an ONNX file; a form says what stands for each quantized tensor.

The same network gives the same bytes: values bear short names in the order of the graph, and
nothing of torch's trace (stack traces, paths) stays.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from lsqctl.deploy.network import QUANTIZER, Network
from lsqctl.deploy.runtime import Array
from lsqctl.errors import DataError

if TYPE_CHECKING:
    import onnx

    from lsqctl.quant.arithmetic import IntegerLayer, Window

Integers = npt.NDArray[np.int64]
OPSET = 21  # the first with 4-bit integers
PRODUCER = "lsqctl"


class Form(Protocol):
    """How quantized tensors and integer layers are written."""

    @property
    def opset_imports(self) -> Mapping[str, int]:
        """Operator sets beside the standard one, with their versions."""

    def layer(self, graph: GraphWriter, edge: str, x: str) -> str:
        """Add the nodes of an integer layer that reads ``x``; return the name of its output."""

    def quantizer(self, graph: GraphWriter, edge: str, x: str) -> str:
        """Add the nodes of a lone quantizer, which gives floats again; return its output."""


class GraphWriter:
    """Nodes and constants of one graph, in their order; ``taps`` names the codes of each edge.

    ``given_codes`` are those that the layer before an edge gives by itself.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.taps: dict[str, str] = {}
        self.given_codes: dict[str, str] = {}
        self._constants: dict[tuple[object, ...], str] = {}
        self._count = 0

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        """Add a node with one output and return the output's name."""
        from onnx import helper

        self._count += 1
        output = f"_{self._count}"
        node = helper.make_node(op, list(inputs), [output], domain=domain or None, **attributes)
        self.nodes.append(node)
        return output

    def convolve(self, op: str, window: Window, *inputs: str, **attributes: object) -> str:
        """Add a kind of convolution with a window's strides, dilations and groups."""
        return self.add(
            op,
            *inputs,
            domain="",
            strides=list(window.stride),
            dilations=list(window.dilation),
            group=window.groups,
            **attributes,
        )

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Return the name of a constant; equal ones are one."""
        from onnx import numpy_helper

        array = np.asarray(value, dtype, order="C")
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = name = f"_c{len(self._constants)}"
            self.initializers[name] = numpy_helper.from_array(array, name)
        return self._constants[key]

    def weight_codes(self, codes: Array, bits: int, factors: Integers | None = None) -> str:
        """Return the name of int8 weight codes, stored in 4 bits where they fit.

        They are multiplied by ``factors``, which broadcast; a runtime does that once, on loading.
        """
        if bits > 4:
            whole = codes.astype(np.int64) * (1 if factors is None else factors)
            return self.constant(whole, np.int8)
        import ml_dtypes
        from onnx import TensorProto

        packed = self.constant(codes.astype(ml_dtypes.int4), ml_dtypes.int4)
        if factors is not None:
            as_float = self.add("Cast", packed, to=TensorProto.FLOAT)
            packed = self.add("Mul", as_float, self.constant(factors))
        return self.add("Cast", packed, to=TensorProto.INT8)

    def tap(self, edge: str, value: str) -> str:
        """Remember ``value`` as the codes of an edge, a layer that is called again counted."""
        calls = sum(name.partition("#")[0] == edge for name in self.taps)
        self.taps[f"{edge}#{calls + 1}" if calls else edge] = value
        return value


def add_scale_and_shift(
    graph: GraphWriter, layer: IntegerLayer, accumulators: str, shape: tuple[int, ...]
) -> str:
    """Add what makes a layer's values of its accumulators; ``shape`` lets channels broadcast."""
    scale, shift = (graph.constant(t.numpy().reshape(shape)) for t in (layer.scale, layer.shift))
    return graph.add("Add", graph.add("Mul", accumulators, scale), shift)


def write_onnx(
    exported: onnx.ModelProto, form: Form, metadata: Mapping[str, str]
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return the file as a value, and by edge the name of the tensor that holds its codes.

    ``exported`` is what ``export`` returned, once for all forms; it stays as it is.
    """
    from onnx import ModelProto, helper

    source_model, exported = exported, ModelProto()
    exported.CopyFrom(source_model)
    graph = GraphWriter()
    outputs = _expand(graph, exported, form)
    graph.nodes = _read_nodes(graph.nodes, outputs)
    names = _short_names(graph, exported.graph.input[0].name, outputs)
    model = _assemble(graph, exported, names, outputs, form.opset_imports)
    helper.set_model_props(model, dict(sorted(metadata.items())))
    return model, {edge: names[value] for edge, value in graph.taps.items()}


def _expand(graph: GraphWriter, exported: onnx.ModelProto, form: Form) -> list[str]:
    """Add each node, those of the domain ``lsq`` as the form writes them; return the outputs."""
    from onnx import helper

    renamed: dict[str, str] = {}
    for tensor in exported.graph.initializer:
        graph.initializers[tensor.name] = tensor
    for node in exported.graph.node:
        inputs = [renamed.get(name, name) for name in node.input]
        if node.domain == "lsq":
            edge = helper.get_attribute_value(node.attribute[0]).decode()
            expand = form.quantizer if node.op_type == QUANTIZER else form.layer
            renamed[node.output[0]] = expand(graph, edge, inputs[0])
        else:
            del node.input[:]
            node.input.extend(inputs)
            graph.nodes.append(node)
    return [renamed.get(value.name, value.name) for value in exported.graph.output]


def export(network: Network) -> onnx.ModelProto:
    """Return the network as ONNX, its quantized layers as nodes of the domain ``lsq``.

    Raises DataError for an operation that torch does not write as ONNX.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        try:
            program = torch.onnx.export(
                network.program,
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
                external_data=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise DataError(f"torch cannot write this network as ONNX: {_cause(error)}") from None
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def _cause(error: BaseException) -> str:
    """Return the first line of what an error was raised from at last: what the matter is."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0]


def _read_nodes(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """Return the nodes that something reads: what lay between proved codes is left out."""
    read, kept = set(outputs), []
    for node in reversed(nodes):
        if read.intersection(node.output):
            read.update(node.input)
            kept.append(node)
    return kept[::-1]


def _short_names(graph: GraphWriter, source: str, outputs: Sequence[str]) -> dict[str, str]:
    """Return a short name for each value: q0, q1, … for codes, and the ends by what they are."""
    names = {"": "", source: "images"}
    names |= {value: f"q{i}" for i, value in enumerate(dict.fromkeys(graph.taps.values()))}
    names |= {value: f"logits{i or ''}" for i, value in enumerate(outputs)}
    for node in graph.nodes:
        for name in (*node.input, *node.output):
            names.setdefault(name, f"v{len(names)}")
    return names


def _assemble(
    graph: GraphWriter,
    exported: onnx.ModelProto,
    names: Mapping[str, str],
    outputs: Sequence[str],
    opset_imports: Mapping[str, int],
) -> onnx.ModelProto:
    from onnx import helper

    for node in graph.nodes:
        _rename(node, names)
    source, result = exported.graph.input[0], exported.graph.output[0]
    inputs = [_end("images", source)]
    results = [_end(names[name], result) for name in outputs]
    opsets = [helper.make_opsetid("", OPSET)]
    opsets += [helper.make_opsetid(domain, version) for domain, version in opset_imports.items()]
    initializers = _used_initializers(graph, names)
    body = helper.make_graph(graph.nodes, "lsq", inputs, results, initializers)
    return helper.make_model(body, opset_imports=opsets, ir_version=10, producer_name=PRODUCER)


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Give a node's values their short names, and take away what torch wrote about it."""
    for values in (node.input, node.output):
        renamed = [names[name] for name in values]
        del values[:]
        values.extend(renamed)
    node.name = node.doc_string = ""
    del node.metadata_props[:]


def _used_initializers(graph: GraphWriter, names: Mapping[str, str]) -> list[onnx.TensorProto]:
    """Return the constants that a node reads, under their short names."""
    used = {name for node in graph.nodes for name in node.input}
    initializers = []
    for name, tensor in graph.initializers.items():
        if names.get(name) in used:
            tensor.name, tensor.doc_string = names[name], ""
            del tensor.metadata_props[:]
            initializers.append(tensor)
    return initializers


def _end(name: str, like: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """Return an input or output as torch declared it, its batch of any size."""
    from onnx import helper

    tensor = like.type.tensor_type
    sizes = [dimension.dim_value or None for dimension in tensor.shape.dim][1:]
    return helper.make_tensor_value_info(name, tensor.elem_type, ["batch", *sizes])
