"""Ask each implementation each question of the golden tables, and say where it differs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lsqctl.quant.conformance.golden import (
    CHECKS,
    STEP_SIZE,
    W4,
    Check,
    FirstStep,
    Grid,
    Pointwise,
    SameValue,
    StepGradient,
)
from lsqctl.quant.conformance.implementations import Implementation

Verdict = Literal["ok", "differs", "not applicable", "not installed"]
_GOLDEN_RATIO = 0.6180339887498949  # its multiples fill 0..1 evenly, with mantissas of every kind
_TOLERANCE = 1e-5  # relative; the expected numbers are written to seven digits


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One cell of the matrix. ``details``: the input, the actual and the expected value."""

    check: str
    implementation: str
    verdict: Verdict
    details: tuple[str, ...] = ()


def run_checks(implementations: Sequence[Implementation]) -> list[CheckResult]:
    """Return the result of each check and implementation, check by check."""
    return [run_check(check, implementation) for check in CHECKS for implementation in implementations]


def run_check(check: Check, implementation: Implementation) -> CheckResult:
    """Run one check on one implementation. One that refuses the input differs, and says how."""
    if implementation.quantize is None:
        return CheckResult(check.key, implementation.name, "not installed")
    if not _is_applicable(check, implementation):
        return CheckResult(check.key, implementation.name, "not applicable")
    try:
        details = tuple(_mismatches(check, implementation))
    except (RuntimeError, TypeError, ValueError) as error:
        details = (f"refuses it: {str(error).splitlines()[0]}",)
    return CheckResult(check.key, implementation.name, "differs" if details else "ok", details)


def _is_applicable(check: Check, implementation: Implementation) -> bool:
    match check.case:
        case StepGradient():
            return implementation.step_gradient is not None
        case FirstStep():
            return implementation.first_step is not None
        case SameValue():
            return implementation.scales_gradient
        case Pointwise():
            return implementation.scales_gradient or check.case.grad_scale == 1


def _mismatches(check: Check, implementation: Implementation) -> Iterator[str]:
    golden_case = check.case
    match golden_case:
        case Pointwise():
            for grid, v, expected in golden_case.points:
                actual = _evaluate(implementation, golden_case, grid, v)
                if not _is_close(actual, expected):
                    yield f"{_grid_name(grid)}, v/s {v:g}: {actual:g}, expected {expected:g}"
        case SameValue():
            if changed := _count_changed_values(implementation, golden_case.steps):
                yield f"{changed} of {golden_case.steps} step sizes give others"
        case StepGradient():
            assert implementation.step_gradient is not None
            yield from _mismatch(implementation.step_gradient(golden_case), golden_case.expected)
        case FirstStep():
            assert implementation.first_step is not None
            yield from _mismatch(implementation.first_step(golden_case), golden_case.expected)


def _mismatch(actual: float, expected: float) -> Iterator[str]:
    if not _is_close(actual, expected):
        yield f"{actual:.7g}, expected {expected:.7g}"


def _is_close(actual: float, expected: float) -> bool:
    return math.isclose(actual, expected, rel_tol=_TOLERANCE, abs_tol=1e-6)


def _grid_name(grid: Grid) -> str:
    return f"{'W' if grid.signed else 'A'}{grid.bits}"


def _evaluate(implementation: Implementation, case: Pointwise, grid: Grid, v: float) -> float:
    """Return the case's quantity at a single value, v = x/s."""
    assert implementation.quantize is not None
    x, step = torch.tensor([v * STEP_SIZE]), torch.tensor(STEP_SIZE)
    if case.bf16:  # x is exact in bf16, so the step makes the ratio
        x, step = torch.tensor([math.copysign(1.0, v)]).bfloat16(), torch.tensor(1.0 / abs(v))
    x, step = x.requires_grad_(), step.requires_grad_()
    out = implementation.quantize(x, step, grid, case.grad_scale)
    if case.quantity == "code":
        code = out.detach().float() / step.detach()
        return float(code.round() if case.bf16 else code)  # bf16 keeps a code, not its value
    out.sum().backward()  # type: ignore[no-untyped-call]
    return float(_grad(x) if case.quantity == "grad_x" else _grad(step))


def _grad(tensor: Tensor) -> Tensor:
    return torch.zeros(()) if tensor.grad is None else tensor.grad


def _count_changed_values(implementation: Implementation, steps: int) -> int:
    """Count the step sizes for which the gradient's scale changes some value."""
    assert implementation.quantize is not None
    x, changed = torch.linspace(-2.0, 2.0, 41), 0
    for number in range(1, steps + 1):
        step = torch.tensor(number * _GOLDEN_RATIO % 1 + 0.001)
        plain = implementation.quantize(x, step, W4, 1.0)
        changed += not torch.equal(plain, implementation.quantize(x, step, W4, 0.0371))
    return changed
