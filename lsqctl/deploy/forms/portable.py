"""The form *portable*: standard ONNX with QuantizeLinear and DequantizeLinear, for any runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lsqctl.deploy.forms import Answers, Runner, Unavailable, WrittenForm, form
from lsqctl.deploy.runtime import Array, missing_packages, onnx_answers
from lsqctl.errors import DataError

if TYPE_CHECKING:
    from lsqctl.deploy.network import Network
    from lsqctl.deploy.onnx_graph import GraphWriter
    from lsqctl.deploy.source import FormSource

OPENVINO = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}  # its default is bf16 where it can


@form(
    "portable",
    file="model.onnx",
    description="standard operators of opset 21 for any ONNX runtime; OpenVINO makes int8 kernels "
    "of them, others compute in float: near the reference, not bound to it",
    hub_file="onnx/model.onnx",
    packages="onnx onnxscript onnxruntime",
    usage="""\
import numpy as np
import onnxruntime

expected = np.load("expected.npz")
session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
logits = session.run(["logits"], {{"images": expected["images"]}})[0]
print(np.abs(logits - expected["logits"]).max(), logits.argmax(1))
""",
)
class Portable:
    """Codes as bytes, a float convolution of whole numbers, then scale and shift."""

    def write(self, source: FormSource) -> WrittenForm:
        """Return the file."""
        from lsqctl.deploy.onnx_graph import write_onnx

        dialect = _Standard(source.network)
        model, taps = write_onnx(source.exported, dialect, source.metadata)
        return WrittenForm(model.SerializeToString(deterministic=True), taps)

    def runners(
        self, written: WrittenForm, *, name: str, threads: int, trusted: bool
    ) -> Iterator[Runner | Unavailable]:
        """Yield onnxruntime and OpenVINO."""
        if missing := missing_packages("onnxruntime"):
            yield Unavailable("onnxruntime", missing)
        else:
            answer = onnx_answers(written.data, written.taps, threads=threads, name=name)
            yield Runner("onnxruntime", answer, promises_bits=False)
        if missing := missing_packages("openvino", extra="openvino"):
            yield Unavailable("openvino", missing)
        else:
            yield in_openvino(written, name=name, threads=threads)


def in_openvino(written: WrittenForm, *, name: str, threads: int) -> Runner | Unavailable:
    """Return the file in OpenVINO, which has no kernel for some operators of opset 21."""
    try:
        answer = openvino_answers(written.data, written.taps, threads=threads, name=name)
    except DataError as error:
        return Unavailable("openvino", str(error), refused=True)
    return Runner("openvino", answer, promises_bits=False)


@dataclass(frozen=True, slots=True)
class _Standard:
    """Scales of 1 around the convolution, so that it sums whole numbers; S and B come behind it."""

    network: Network
    opset_imports: Mapping[str, int] = field(default_factory=dict)

    def quantizer(self, graph: GraphWriter, edge: str, x: str) -> str:
        from lsqctl.deploy.exact import ExactForm

        return ExactForm(self.network).quantizer(graph, edge, x)

    def layer(self, graph: GraphWriter, edge: str, x: str) -> str:
        """Add codes, their convolution or product, scale and shift."""
        from lsqctl.deploy.exact import add_codes, add_weights, add_window_padding
        from lsqctl.deploy.onnx_graph import add_scale_and_shift

        layer = self.network.layers[edge]
        codes = graph.tap(edge, add_codes(graph, layer.grid, x))
        one = graph.constant(1.0)
        window, weight = layer.window, layer.weight_codes.numpy()
        zero_point = graph.constant(-layer.grid.quant_min, np.uint8)
        pads, codes = add_window_padding(graph, layer, codes)
        values = graph.add("DequantizeLinear", codes, one, zero_point)
        if window is None:  # runtimes make a product of integers of it
            stored, weight_zero_point = add_weights(graph, layer, np.ascontiguousarray(weight.T))
            matrix = graph.add("DequantizeLinear", stored, one, weight_zero_point)
            out = graph.add("MatMul", values, matrix)
            return add_scale_and_shift(graph, layer, out, (-1,))
        matrix = graph.add("DequantizeLinear", graph.weight_codes(weight, layer.weight_bits), one)
        out = graph.convolve("Conv", window, values, matrix, pads=pads)
        return add_scale_and_shift(graph, layer, out, (-1, *(1,) * len(window.stride)))


def openvino_answers(
    file: bytes, taps: Mapping[str, str], *, threads: int, name: str
) -> Callable[[Array], Answers]:
    """Return a function that runs a file in OpenVINO, in fp32 and int8, never in bf16."""
    import openvino

    core = openvino.Core()
    config = {**OPENVINO, "INFERENCE_NUM_THREADS": threads}
    names = list(dict.fromkeys(taps.values()))
    try:
        plain = core.compile_model(core.read_model(file), "CPU", config)
        with_taps = core.read_model(file)
        with_taps.add_outputs(names)
        tapped = core.compile_model(with_taps, "CPU", config) if names else None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-300:]  # it ends with what the matter is
        raise DataError(f"openvino refuses {name}: {reason}") from None

    def answer(images: Array) -> Answers:
        try:
            logits = np.array(plain(images)["logits"])
            found = tapped(images) if tapped else {}
            codes = {edge: found[one].astype(np.int16) for edge, one in taps.items()}
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[-300:]
            raise DataError(f"openvino cannot run {name}: {reason}") from None
        return Answers(logits, codes)

    return answer
