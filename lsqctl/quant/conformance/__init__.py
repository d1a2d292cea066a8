"""Does a quantizer compute what the LSQ paper says?  Golden values, and who answers how."""

from __future__ import annotations

from lsqctl.quant.conformance.golden import CHECKS, Check
from lsqctl.quant.conformance.implementations import (
    Implementation,
    brevitas_int_quant,
    lsqctl_quantizer,
    detach_form,
    torch_fake_quantize,
)
from lsqctl.quant.conformance.matrix import CheckResult, run_check, run_checks

__all__ = [
    "CHECKS",
    "CheckResult",
    "Check",
    "Implementation",
    "run_check",
    "brevitas_int_quant",
    "run_checks",
    "lsqctl_quantizer",
    "detach_form",
    "torch_fake_quantize",
]
