"""What forms are written from: a traced network, and what several of them need of it, made once.

Apart because it needs torch and the forms themselves are loaded without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from lsqctl.deploy.certificate import Certificate, certify
from lsqctl.deploy.lowering import lower
from lsqctl.deploy.network import Network
from lsqctl.deploy.onnx_graph import export
from lsqctl.deploy.program import Program

if TYPE_CHECKING:
    import onnx


class FormSource:
    """A network with its metadata; ``plain`` keeps ONNX forms to standard operators."""

    def __init__(self, network: Network, metadata: Mapping[str, str], *, plain: bool) -> None:
        self.network, self.metadata, self.plain = network, metadata, plain

    @cached_property
    def exported(self) -> onnx.ModelProto:
        """The network in ONNX, its quantized layers still symbols."""
        return export(self.network)

    @cached_property
    def certificates(self) -> Sequence[Certificate]:
        """What is proved of its edges for every input."""
        return certify(self.network)

    @cached_property
    def program(self) -> Program:
        """The network as plain operations.  Raises DataError where it is more than those."""
        return lower(self.network)
