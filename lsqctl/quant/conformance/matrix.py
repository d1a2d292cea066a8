"""Compare quantizers, lsqctl's and others, with every golden value, and say where they differ."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
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
from lsqctl.quant.functional import lsq_fake_quantize
from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.spec import TensorSpec

Quantize = Callable[[Tensor, Tensor, Grid, float], Tensor]
"""(x, step size of shape (), grid, gradient scale) to x on the grid, differentiable in both."""


@dataclass(frozen=True, slots=True)
class Implementation:
    """A column of the matrix. What it leaves to its caller is None and not asked.

    ``scales_gradient`` says whether it can scale the step's gradient; ``skip_reason`` says why
    it cannot be asked anything.
    """

    name: str
    version: str
    quantize: Quantize | None = None
    scales_gradient: bool = True
    step_gradient: Callable[[StepGradient], float] | None = None
    first_step: Callable[[FirstStep], float] | None = None
    skip_reason: str = ""


def lsqctl_quantizer(version: str = "") -> Implementation:
    """Return lsqctl's quantizer."""
    return Implementation(
        "lsqctl",
        version,
        lambda x, step, grid, scale: lsq_fake_quantize(x, step, *grid.bounds, scale),
        step_gradient=_lsqctl_step_gradient,
        first_step=_lsqctl_first_step,
    )


def torch_fake_quantize() -> Implementation:
    """Return torch's fused kernel with a learnable scale; its zero point is 0."""

    def quantize(x: Tensor, step: Tensor, grid: Grid, scale: float) -> Tensor:
        kernel = torch._fake_quantize_learnable_per_tensor_affine
        return kernel(x, step.reshape(1), torch.zeros(1), *grid.bounds, scale)

    return Implementation("torch", torch.__version__, quantize)


def detach_form() -> Implementation:
    """Return LSQ as public code mostly writes it: three lines around ``detach`` and ``clamp``."""

    def quantize(x: Tensor, step: Tensor, grid: Grid, scale: float) -> Tensor:
        step = (step - step * scale).detach() + step * scale
        code = (x / step).clamp(*grid.bounds)
        code = (code.round() - code).detach() + code
        return code * step

    return Implementation("detach form", "", quantize)


def brevitas_int_quant() -> Implementation:
    """Return Brevitas' integer quantizer, with the clamps that its own layers choose.

    For a fixed number of bits those are ``TensorClampSte`` for weights and ``TensorClamp`` for
    activations. It has no gradient scale.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            version: str = import_module("brevitas").__version__
            quant = import_module("brevitas.core.quant")
            wrappers = import_module("brevitas.core.function_wrapper")
    except ImportError as error:
        not_installed = error.name in ("brevitas", None)
        skip_reason = "not installed" if not_installed else f"cannot be imported: {error}"
        return Implementation("brevitas", "", skip_reason=skip_reason)

    def quantize(x: Tensor, step: Tensor, grid: Grid, scale: float) -> Tensor:
        clamp = wrappers.TensorClampSte() if grid.signed else wrappers.TensorClamp()
        module: Callable[..., Tensor] = quant.IntQuant(
            narrow_range=False,
            signed=grid.signed,
            input_view_impl=wrappers.Identity(),
            float_to_int_impl=wrappers.RoundSte(),
            tensor_clamp_impl=clamp,
        )
        return module(step, torch.tensor(0.0), torch.tensor(float(grid.bits)), x)

    return Implementation("brevitas", version, quantize, scales_gradient=False)


def _lsqctl_step_gradient(case: StepGradient) -> float:
    """Return the gradient of the first step of lsqctl's module, which counts N by itself."""
    shape, grid = case.shape, case.grid
    spec = TensorSpec(grid.bits, signed=grid.signed, per_channel=case.per_channel)
    step_shape = (shape[0], 1) if case.per_channel else ()
    quantizer = LsqQuantizer(spec, step_shape=step_shape, batched=len(shape) == 4, channel_axis=-3)
    quantizer.calibrate(torch.full(shape, 0.5))
    quantizer(torch.full(shape, 1e6)).sum().backward()
    assert quantizer.step_size.grad is not None
    return quantizer.step_size.grad.flatten()[0].item()


def _lsqctl_first_step(case: FirstStep) -> float:
    grid = case.grid
    quantizer = LsqQuantizer(TensorSpec(grid.bits, signed=grid.signed))
    quantizer.calibrate(torch.tensor(case.values))
    return quantizer.step_size.item()


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
    return [
        run_check(check, implementation) for check in CHECKS for implementation in implementations
    ]


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
