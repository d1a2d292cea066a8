"""The form *qonnx*: Quant nodes of any bits, for the compilers of FPGAs that read QONNX."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lsqctl.deploy.forms import Answers, Runner, Unavailable, WrittenForm, form
from lsqctl.deploy.runtime import Array, missing_packages
from lsqctl.errors import DataError

if TYPE_CHECKING:
    import onnx

    from lsqctl.deploy.network import Network
    from lsqctl.deploy.onnx_graph import GraphWriter
    from lsqctl.deploy.source import FormSource
    from lsqctl.quant.arithmetic import Grid, Window

DOMAIN = "qonnx.custom_op.general"
MAX_IMAGES = 8  # its executor runs node by node


@form(
    "qonnx",
    file="model.qonnx.onnx",
    description="Quant nodes of any bits in QONNX, one image at a time",
    packages="onnx onnxscript onnxruntime",
    usage="""\
import numpy as np
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes

expected = np.load("expected.npz")
model = ModelWrapper("{file}").transform(InferShapes())
logits = execute_onnx(model, {{"images": expected["images"][:1]}})["logits"]
print((logits == expected["logits"][:1]).all(), logits.argmax(1))
""",
)
class Qonnx:
    """Written with onnx alone; executed by the package qonnx."""

    def write(self, source: FormSource) -> WrittenForm:
        """Return the file, whose batch is 1 as the readers of QONNX want it."""
        from lsqctl.deploy.onnx_graph import write_onnx

        model, _ = write_onnx(source.exported, _Quant(source.network), source.metadata)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1
        return WrittenForm(model.SerializeToString(deterministic=True))

    def runners(
        self, written: WrittenForm, *, name: str, threads: int, trusted: bool
    ) -> Iterator[Runner | Unavailable]:
        """Yield qonnx's own executor."""
        if missing := missing_packages("qonnx", "onnx", "onnxruntime", extra="qonnx"):
            yield Unavailable("qonnx", missing)
        else:
            yield Runner("qonnx", qonnx_answers(written.data, name), max_images=MAX_IMAGES)


@dataclass(frozen=True, slots=True)
class _Quant:
    """x / step becomes codes by a Quant of scale 1; a convolution of codes, then scale and shift.

    QONNX has no order of rounding for a scale inside Quant that would be the reference's; outside
    it each operation is one of fp32.
    """

    network: Network
    opset_imports: Mapping[str, int] = field(default_factory=lambda: {DOMAIN: 1})

    def quantizer(self, graph: GraphWriter, edge: str, x: str) -> str:
        """Add codes and what they stand for."""
        grid = self.network.grid(edge)
        values = graph.add("Mul", _codes(graph, grid, x), graph.constant(grid.step.numpy()))
        if grid.offset is None:
            return values
        return graph.add("Add", values, graph.constant(grid.offset.numpy()))

    def layer(self, graph: GraphWriter, edge: str, x: str) -> str:
        """Add codes, their convolution or product, scale and shift."""
        from lsqctl.deploy.onnx_graph import add_scale_and_shift

        layer = self.network.layers[edge]
        window, weight = layer.window, layer.weight_codes.numpy().astype(np.float32)
        codes = _codes(graph, layer.grid, x)
        if window is None:
            stored = graph.constant(np.ascontiguousarray(weight.T))
            out = graph.add("MatMul", codes, _quant(graph, stored, layer.weight_bits))
            return add_scale_and_shift(graph, layer, out, (-1,))
        if window.pad_mode != "constant":
            raise DataError(f"the form qonnx has no {window.pad_mode} padding (layer {edge})")
        pads, codes = _padded(graph, codes, window, zero_code=layer.grid.zero_code)
        out = graph.convolve(
            "Conv",
            window,
            codes,
            _quant(graph, graph.constant(weight), layer.weight_bits),
            kernel_shape=list(weight.shape[2:]),
            pads=pads,
        )
        return add_scale_and_shift(graph, layer, out, (1, -1, *(1,) * len(window.stride)))


def _padded(
    graph: GraphWriter, codes: str, window: Window, *, zero_code: int
) -> tuple[list[int], str]:
    """Return the padding that the convolution does itself, which is of zeros, and its input."""
    before, after = ([pair[side] for pair in window.padding] for side in (0, 1))
    if not zero_code:
        return [*before, *after], codes
    zero = graph.constant(zero_code)
    ends = graph.constant([0, 0, *before, 0, 0, *after], np.int64)
    return [0] * 2 * len(window.padding), graph.add("Pad", codes, ends, zero)


def _codes(graph: GraphWriter, grid: Grid, x: str) -> str:
    if grid.offset is not None:
        x = graph.add("Sub", x, graph.constant(grid.offset.numpy()))
    ratio = graph.add("Div", x, graph.constant(grid.step.numpy()))
    n_codes = grid.quant_max - grid.quant_min + 1
    is_narrow = n_codes % 2 == 1
    bits = (n_codes + is_narrow).bit_length() - 1
    return _quant(graph, ratio, bits, signed=grid.quant_min < 0, narrow=is_narrow)


def _quant(
    graph: GraphWriter, x: str, bits: int, *, signed: bool = True, narrow: bool = False
) -> str:
    one, zero, width = (graph.constant(float(value)) for value in (1, 0, bits))
    return graph.add(
        "Quant",
        x,
        one,
        zero,
        width,
        domain=DOMAIN,
        signed=int(signed),
        narrow=int(narrow),
        rounding_mode="ROUND",
    )


def qonnx_answers(file: bytes, name: str) -> Callable[[Array], Answers]:
    """Return a function that executes a file by qonnx, image by image."""
    import onnx
    from google.protobuf.message import DecodeError
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    try:
        proto: onnx.ModelProto = onnx.load_from_string(file)
    except DecodeError as error:
        raise DataError(f"{name} is no ONNX file: {error}") from None
    (inputs, outputs) = (
        [one.name for one in ends] for ends in (proto.graph.input, proto.graph.output)
    )
    if inputs != ["images"] or outputs != ["logits"] or not proto.graph.node:
        raise DataError(f"{name} is no network of the form qonnx")
    with _complaints(name):
        model = ModelWrapper(proto).transform(InferShapes())
        shape = tuple(model.get_tensor_shape("images") or ())
        knows_shapes = model.check_all_tensor_shapes_specified()
    if not knows_shapes:
        raise DataError(f"qonnx cannot run {name}: it does not know the shape of every value")

    def answer(images: Array) -> Answers:
        if shape != (1, *images.shape[1:]):
            raise DataError(f"{name} takes images {shape[1:]}, not {images.shape[1:]}")
        with _complaints(name):
            logits = [execute_onnx(model, {"images": one[None]})["logits"] for one in images]
            return Answers(np.concatenate(logits))

    return answer


@contextmanager
def _complaints(name: str) -> Iterator[None]:
    """Let whatever stops qonnx end in one line: it raises Exception itself, and what it calls."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"qonnx cannot run {name}: {reason}") from None
