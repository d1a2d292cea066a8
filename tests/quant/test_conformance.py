"""The golden tables tell implementations apart, and are not computed by ours."""

from __future__ import annotations

import ast
import math
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from lsqctl.quant.conformance import (
    CHECKS,
    brevitas_int_quant,
    detach_form,
    lsqctl_quantizer,
    run_check,
    run_checks,
    torch_fake_quantize,
)
from lsqctl.quant.conformance import golden as golden_module
from lsqctl.quant.conformance.golden import GRIDS, Pointwise, StepGradient

BY_KEY = {check.key: check for check in CHECKS}


def verdicts(implementation):
    return {one.check: one for one in run_checks([implementation])}


def test_ours_gives_every_answer_of_the_paper():
    found = verdicts(lsqctl_quantizer())
    assert {key: one.details for key, one in found.items() if one.verdict != "ok"} == {}
    assert len(found) == len(CHECKS) == len(BY_KEY) >= 20


def test_torchs_kernel_clips_the_rounded_value_and_is_told_so_with_both_numbers():
    found = verdicts(torch_fake_quantize())
    differs = {key for key, one in found.items() if one.verdict == "differs"}
    assert differs == {
        *("clip-first-grad-step", "clip-first-grad-x"),
        *("bound-grad-step", "bound-grad-x"),
    }
    assert found["clip-first-grad-step"].details[0] == "W2, v/s 1.2: -0.2, expected 1"
    assert found["clip-first-grad-x"].details[0] == "W2, v/s 1.2: 1, expected 0"
    assert found["first-step-weights"].verdict == "not applicable"


def test_the_three_lines_alter_values_and_flip_codes_of_bf16():
    differs = {key for key, one in verdicts(detach_form()).items() if one.verdict == "differs"}
    assert {"grad-scale-value", "bf16-codes"} <= differs


def test_brevitas_is_asked_where_it_is_installed_and_named_where_not():
    found = brevitas_int_quant()
    verdict = run_check(BY_KEY["values-weights"], found).verdict
    assert (verdict, bool(found.skip_reason)) in {("ok", False), ("not installed", True)}


WRONG = {
    "values-weights": lambda x, s, grid, g: (x / s).round().clamp(-2, 2) * s,
    "half-even": lambda x, s, grid, g: (x / s + 0.5).floor().clamp(*grid.bounds) * s,
    "bounds": lambda x, s, grid, g: (x / s).round().clamp(-7, 7) * s,
    "grad-scale": lambda x, s, grid, g: lsqctl_quantizer().quantize(x, s, grid, 1.0),
    "grad-scale-value": lambda x, s, grid, g: (
        lsqctl_quantizer().quantize(x, s, grid, 1.0) * (1 + g * 1e-6)
    ),
    "bf16-codes": lambda x, s, grid, g: (x / s).clamp(*grid.bounds).round() * s,
    "grad-x-inside": lambda x, s, grid, g: lsqctl_quantizer().quantize(x.detach(), s, grid, g),
    "grad-x-outside": lambda x, s, grid, g: (
        x + (lsqctl_quantizer().quantize(x, s, grid, g) - x).detach()
    ),
    "grad-step-inside": lambda x, s, grid, g: (
        lsqctl_quantizer().quantize(x, s.detach(), grid, g) + 0 * s
    ),
    "grad-step-outside": lambda x, s, grid, g: (
        lsqctl_quantizer().quantize(x, s.detach(), grid, g) + 0 * s
    ),
}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_quantizer_is_found_by_the_row_that_asks_for_it(key):
    found = run_check(BY_KEY[key], replace(lsqctl_quantizer(), quantize=WRONG[key]))
    assert found.verdict == "differs"
    assert found.details


@pytest.mark.parametrize("key", ["n-weights", "n-weights-per-channel", "n-features"])
def test_a_wrong_count_is_found(key):
    wrong = replace(
        lsqctl_quantizer(), step_gradient=lambda question: question.expected * math.sqrt(2)
    )
    assert run_check(BY_KEY[key], wrong).verdict == "differs"


def test_one_that_refuses_differs_and_says_how():
    def refuse(x, step, grid, scale):
        raise RuntimeError("only\nfloat")

    found = run_check(BY_KEY["values-weights"], replace(lsqctl_quantizer(), quantize=refuse))
    assert (found.verdict, found.details) == ("differs", ("refuses it: only",))


def test_the_wanted_numbers_follow_from_the_equations_in_exact_arithmetic():
    """Worked out a second time, in fractions: by neither the tables nor a quantizer."""
    for check in CHECKS:
        if not isinstance(check.case, Pointwise) or check.case.bf16:
            continue
        for grid, v, wanted in check.case.points:
            low, high = grid.bounds
            exact = Fraction(v).limit_denominator(1000)
            code = round(min(max(exact, low), high))  # Python rounds half to even
            inside = low < exact < high
            scale = Fraction(check.case.grad_scale)
            step = (code - exact if inside else code) * scale
            found = {"code": code, "grad_x": int(inside), "grad_step": step}
            assert found[check.case.quantity] == Fraction(wanted), (check.key, v)


def test_bounds_and_step_gradients_follow_from_the_definitions():
    for grid in GRIDS:
        n, p = 2 ** (grid.bits - 1), 2 ** (grid.bits - 1) - 1
        assert grid.bounds == ((-n, p) if grid.signed else (0, 2**grid.bits - 1))
    for check in CHECKS:
        if isinstance(question := check.case, StepGradient):
            shape, highest = question.shape, question.grid.bounds[1]
            numel = math.prod(shape[1:] if question.per_channel else shape)
            n = numel if len(shape) == 2 else math.prod(shape[1:])
            assert question.expected == pytest.approx(numel * highest / math.sqrt(n * highest))


def test_the_tables_are_plain_data():
    tree = ast.parse(Path(golden_module.__file__).read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "dataclasses", "typing"}


def test_asking_leaves_gradients_and_the_default_type_alone():
    before = torch.get_default_dtype(), torch.is_grad_enabled()
    run_checks([lsqctl_quantizer()])
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == before


def test_the_page_shows_how_to_ask_ones_own(capsys):
    page = Path(__file__).parents[2] / "docs" / "conformance.md"
    (code,) = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out == "[]\n"
