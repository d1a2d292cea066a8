"""Does a quantizer compute what the LSQ paper says?  Golden values, and who answers how."""

from __future__ import annotations

from lsqctl.quant.conformance.golden import CHECKS, Check
from lsqctl.quant.conformance.implementations import (
    Implementation,
    brevitas,
    ours,
    three_lines,
    torchs,
)
from lsqctl.quant.conformance.matrix import Answer, answer, conformance

__all__ = [
    "CHECKS",
    "Answer",
    "Check",
    "Implementation",
    "answer",
    "brevitas",
    "conformance",
    "ours",
    "three_lines",
    "torchs",
]
