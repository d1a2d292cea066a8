"""Run ONNX files in onnxruntime: sessions on the CPU, and a clear word where it is missing.

Apart because the check of a folder runs files too, and must load without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lsqctl.errors import DataError

if TYPE_CHECKING:
    import onnxruntime

    from lsqctl.deploy.forms import Answers

Array = NDArray[np.generic]
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def missing_packages(*packages: str, extra: str = "deploy") -> str:
    """Return the line that says which of these cannot be imported, and the command that helps."""
    missing = [package for package in packages if find_spec(package) is None]
    return f"this needs {', '.join(missing)}: pip install 'lsqctl[{extra}]'" if missing else ""


def open_session(
    file: bytes, *, threads: int = 1, taps: Iterable[str] = (), name: str = "the file"
) -> onnxruntime.InferenceSession:
    """Return a session on the CPU that also gives the tensors ``taps``, which are bytes.

    Raises DataError for what onnxruntime does not take.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(
            _with_outputs(file, taps), options, providers=["CPUExecutionProvider"]
        )
    except _complaints() as error:
        reason = " ".join(str(error).split())
        raise DataError(f"onnxruntime refuses {name}: {reason}") from None


def _complaints() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises; its errors have no common base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = (one for one in vars(state).values() if isinstance(one, type))
    return tuple(kind for kind in kinds if issubclass(kind, Exception))


def _refusals() -> tuple[type[Exception], ...]:
    """Return what a session raises of images that it does not take."""
    return (*_complaints(), ValueError)


def _with_outputs(file: bytes, taps: Iterable[str]) -> bytes:
    names = list(dict.fromkeys(taps))
    if not names:
        return file
    import onnx

    model = onnx.load_from_string(file)
    for name in names:
        tensor = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None)
        model.graph.output.append(tensor)
    data: bytes = model.SerializeToString()
    return data


def run_session(
    session: onnxruntime.InferenceSession,
    images: Array,
    outputs: list[str] | None = None,
    *,
    name: str = "the file",
) -> Mapping[str, Array]:
    """Return the outputs by name, all unless named, of one batch of images.

    Raises DataError for a file that does not take them.
    """
    names = outputs or [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, {"images": images}), strict=True))
    except _refusals() as error:
        reason = " ".join(str(error).split())
        raise DataError(f"onnxruntime cannot run {name}: {reason}") from None


def onnx_answers(
    file: bytes, taps: Mapping[str, str], *, threads: int = 1, name: str = "the file"
) -> Callable[[Array], Answers]:
    """Return a function that runs a file in onnxruntime: logits, and codes by edge for ``taps``.

    The file runs as it is, for its logits, and once more where its codes are asked for. Codes are
    bytes, code - quant_min. Raises DataError for what onnxruntime does not take.
    """
    from lsqctl.deploy.forms import Answers

    plain = open_session(file, threads=threads, name=name)
    tapped = open_session(file, threads=threads, taps=taps.values(), name=name) if taps else None
    names = list(dict.fromkeys(taps.values()))

    def answer(images: Array) -> Answers:
        logits = run_session(plain, images, ["logits"], name=name)["logits"]
        found = run_session(tapped, images, names, name=name) if tapped else {}
        return Answers(logits, {edge: found[one].astype(np.int16) for edge, one in taps.items()})

    return answer
