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
_TOLERANCE = 1e-5  # relative; the wanted numbers are written to seven digits


@dataclass(frozen=True, slots=True)
class Answer:
    """One cell of the matrix. ``details`` says for what input it got which value, wanted which."""

    check: str
    implementation: str
    verdict: Verdict
    details: tuple[str, ...] = ()


def conformance(implementations: Sequence[Implementation]) -> list[Answer]:
    """Return an answer for each check and implementation, check by check."""
    return [answer(check, one) for check in CHECKS for one in implementations]


def answer(check: Check, asked: Implementation) -> Answer:
    """Ask one implementation one question. One that refuses the input differs, and says how."""
    if asked.quantize is None:
        return Answer(check.key, asked.name, "not installed")
    if not _can_answer(check, asked):
        return Answer(check.key, asked.name, "not applicable")
    try:
        details = tuple(_differences(check, asked))
    except (RuntimeError, TypeError, ValueError) as error:
        details = (f"refuses it: {str(error).splitlines()[0]}",)
    return Answer(check.key, asked.name, "differs" if details else "ok", details)


def _can_answer(check: Check, asked: Implementation) -> bool:
    match check.question:
        case StepGradient():
            return asked.step_gradient is not None
        case FirstStep():
            return asked.first_step is not None
        case SameValue():
            return asked.scales_gradient
        case Pointwise():
            return asked.scales_gradient or check.question.grad_scale == 1


def _differences(check: Check, asked: Implementation) -> Iterator[str]:
    question = check.question
    match question:
        case Pointwise():
            for grid, v, wanted in question.points:
                got = _at(asked, question, grid, v)
                if not _same(got, wanted):
                    yield f"{_named(grid)}, v/s {v:g}: {got:g}, wanted {wanted:g}"
        case SameValue():
            if changed := _changed_values(asked, question.steps):
                yield f"{changed} of {question.steps} step sizes give others"
        case StepGradient():
            assert asked.step_gradient is not None
            yield from _one(asked.step_gradient(question), question.wanted)
        case FirstStep():
            assert asked.first_step is not None
            yield from _one(asked.first_step(question), question.wanted)


def _one(got: float, wanted: float) -> Iterator[str]:
    if not _same(got, wanted):
        yield f"{got:.7g}, wanted {wanted:.7g}"


def _same(got: float, wanted: float) -> bool:
    return math.isclose(got, wanted, rel_tol=_TOLERANCE, abs_tol=1e-6)


def _named(grid: Grid) -> str:
    return f"{'W' if grid.signed else 'A'}{grid.bits}"


def _at(asked: Implementation, question: Pointwise, grid: Grid, v: float) -> float:
    """Return what is asked for of a single value, v = x/s."""
    assert asked.quantize is not None
    x, step = torch.tensor([v * STEP_SIZE]), torch.tensor(STEP_SIZE)
    if question.bf16:  # x is exact in bf16, so the step makes the ratio
        x, step = torch.tensor([math.copysign(1.0, v)]).bfloat16(), torch.tensor(1.0 / abs(v))
    x, step = x.requires_grad_(), step.requires_grad_()
    out = asked.quantize(x, step, grid, question.grad_scale)
    if question.asks == "code":
        code = out.detach().float() / step.detach()
        return float(code.round() if question.bf16 else code)  # bf16 keeps a code, not its value
    out.sum().backward()  # type: ignore[no-untyped-call]
    return float(_grad(x) if question.asks == "grad_x" else _grad(step))


def _grad(tensor: Tensor) -> Tensor:
    return torch.zeros(()) if tensor.grad is None else tensor.grad


def _changed_values(asked: Implementation, steps: int) -> int:
    """Count the step sizes for which the gradient's scale changes some value."""
    assert asked.quantize is not None
    x, changed = torch.linspace(-2.0, 2.0, 41), 0
    for number in range(1, steps + 1):
        step = torch.tensor(number * _GOLDEN_RATIO % 1 + 0.001)
        plain = asked.quantize(x, step, W4, 1.0)
        changed += not torch.equal(plain, asked.quantize(x, step, W4, 0.0371))
    return changed
