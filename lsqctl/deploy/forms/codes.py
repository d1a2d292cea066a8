"""The form *codes*: packed codes, steps, scales and the operations, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lsqctl.deploy.forms import Answers, Runner, Unavailable, WrittenForm, form
from lsqctl.deploy.program import Program
from lsqctl.deploy.runtime import Array
from lsqctl.errors import DataError

if TYPE_CHECKING:
    from lsqctl.deploy.source import FormSource

PROGRAM = "lsqctl.program"
MAX_IMAGES = 64  # numpy is slow
_NO_PROGRAM = ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError
"""What a description raises whose values have other types or sizes than a program's."""


@form(
    "codes",
    file="model.safetensors",
    description="weight codes in as many bits as they have, with steps, scales and shifts in "
    "fp32; the operations between them stand in its metadata",
    extra="",
    usage="""\
import json
import numpy as np
from safetensors import safe_open

with safe_open("{file}", "numpy") as file:
    program = json.loads(file.metadata()["lsqctl.program"])
    for one in program["operations"]:
        if one["kind"] == "layer":
            settings = one["settings"]
            bits, shape = settings["bits"], settings["weight"]
            packed = file.get_tensor(settings["name"] + ".codes")
            rows = np.unpackbits(packed, count=bits * np.prod(shape), bitorder="little")
            codes = rows.reshape(-1, bits) @ (1 << np.arange(bits))
            codes = np.where(codes >> (bits - 1), codes - (1 << bits), codes).reshape(shape)
            print(settings["name"], shape, codes.min(), codes.max(), settings["step"])
""",
)
class PackedCodes:
    """Read by safetensors and numpy alone; ``lsqctl.deploy.program`` runs it."""

    def write(self, source: FormSource) -> WrittenForm:
        """Return the file; the order of its tensors is that of the operations."""
        import numpy as np
        from safetensors.numpy import save

        program = source.program
        description = json.dumps(program.as_json(), separators=(",", ":"))
        metadata = {**source.metadata, PROGRAM: description}
        tensors = {name: np.ascontiguousarray(t) for name, t in program.tensors.items()}
        return WrittenForm(save(tensors, _sorted(metadata)))

    def runners(
        self, written: WrittenForm, *, name: str, threads: int, trusted: bool
    ) -> Iterator[Runner | Unavailable]:
        """Yield numpy, which needs nothing."""
        program = read_program(written.data, name)

        def answer(images: Array) -> Answers:
            try:
                return Answers(program(images))
            except _NO_PROGRAM as error:
                reason = " ".join(str(error).split())
                raise DataError(f"{name} cannot be run: {reason}") from None

        yield Runner("numpy", answer, max_images=MAX_IMAGES)


def _sorted(metadata: dict[str, str]) -> dict[str, str]:
    return dict(sorted(metadata.items()))


def read_program(data: bytes, name: str) -> Program:
    """Return the program of a file.  Raises DataError where it is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size])["__metadata__"]
        return Program.from_json(json.loads(metadata[PROGRAM]), load(data))
    except (SafetensorError, *_NO_PROGRAM) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{name} is no file of packed codes: {reason}") from None
