"""Quantized networks in the wrappers of several processes: what docs/processes.md says of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def said(how: str) -> list[Any]:
    words = [sys.executable, "-m", "tests.quant.wrapped_run", how]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_ddp_averages_the_gradients_of_step_sizes_and_waits_for_no_unused_offset():
    first, second = said("ddp")
    assert first == second
    assert all(first)


@pytest.mark.slow
def test_fsdp_takes_no_step_sizes_and_adds_up_no_gradient_of_those_it_ignores():
    found = said("fsdp")
    refusals = [one for one in found if isinstance(one, str)]
    first, second = (one for one in found if isinstance(one, list))
    assert len(refusals) == 2
    assert "scalar parameters" in refusals[0]
    assert first != second, "FSDP adds them up now: docs/processes.md need not warn any more"
