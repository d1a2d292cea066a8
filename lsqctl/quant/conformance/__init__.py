"""Does a quantizer compute what the LSQ paper says?  Golden values, and who answers how."""

from __future__ import annotations

from lsqctl.quant.conformance.golden import CHECKS, Check
from lsqctl.quant.conformance.matrix import (
    CheckResult,
    Implementation,
    brevitas_int_quant,
    detach_form,
    lsqctl_quantizer,
    run_check,
    run_checks,
    torch_fake_quantize,
)

__all__ = [
    "CHECKS",
    "Check",
    "CheckResult",
    "Implementation",
    "brevitas_int_quant",
    "detach_form",
    "lsqctl_quantizer",
    "run_check",
    "run_checks",
    "torch_fake_quantize",
]
