"""A deployed network as the page runs it: plain values for its script.

Apart because it knows nothing of boards, and reads nothing of a deployed folder.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lsqctl.run import JsonObject


@dataclass(frozen=True, slots=True)
class Classifier:
    """A program as JSON with its tensors, images (B, C, H, W) in bytes and their logits in fp32."""

    title: str
    program: JsonObject
    tensors: Mapping[str, NDArray[np.generic]]
    images: NDArray[np.uint8]
    logits: NDArray[np.float32]

    @property
    def n_layers(self) -> int:
        """How many layers compute in integers."""
        return sum(one["kind"] == "layer" for one in self.program["operations"])

    @property
    def n_bytes(self) -> int:
        """How many bytes its codes, scales and shifts have."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def n_images(self) -> int:
        """How many images it is tried on."""
        return len(self.images)

    @property
    def data(self) -> JsonObject:
        """Return what the script reads; numbers are little-endian bytes in base64."""
        return {
            "program": self.program,
            "tensors": {name: _base64(tensor) for name, tensor in self.tensors.items()},
            "images": _base64(self.images),
            "logits": _base64(self.logits),
        }


def _base64(array: NDArray[np.generic]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
