"""The form *exact*: integer products in onnxruntime, each code the reference's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lsqctl.deploy.forms import UNCLIPPED, Runner, Unavailable, WrittenForm, form
from lsqctl.deploy.runtime import missing_packages, onnx_answers

if TYPE_CHECKING:
    from lsqctl.deploy.source import FormSource


@form(
    "exact",
    file="model.onnxruntime.onnx",
    description="each quantized layer is a product of integers in onnxruntime, every code the "
    "reference's",
    hub_file="onnx/model_quantized.onnx",
    packages="onnx onnxscript onnxruntime",
    usage="""\
import numpy as np
import onnxruntime

expected = np.load("expected.npz")
session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
logits = session.run(["logits"], {{"images": expected["images"]}})[0]
print((logits == expected["logits"]).all(), logits.argmax(1))
""",
)
class Exact:
    """Written by ``lsqctl.deploy.exact``."""

    def write(self, source: FormSource) -> WrittenForm:
        """Return the file, weights of up to 4 bits packed."""
        from lsqctl.deploy.certificate import proofs
        from lsqctl.deploy.exact import ExactForm
        from lsqctl.deploy.onnx_graph import write_onnx

        dialect = ExactForm(source.network, source.plain, proofs(source.certificates))
        model, taps = write_onnx(source.exported, dialect, source.metadata)
        operators = "standard" if source.plain else "standard and com.microsoft"
        data = model.SerializeToString(deterministic=True)
        return WrittenForm(data, taps, {"operators": operators, UNCLIPPED: True})

    def runners(
        self, written: WrittenForm, *, name: str, threads: int, trusted: bool
    ) -> Iterator[Runner | Unavailable]:
        """Yield onnxruntime."""
        if missing := missing_packages("onnxruntime"):
            yield Unavailable("onnxruntime", missing)
            return
        answer = onnx_answers(written.data, written.taps, threads=threads, name=name)
        yield Runner("onnxruntime", answer)
