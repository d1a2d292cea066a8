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
def test_fsdp_takes_no_step_sizes_and_a_calibrated_layer_refuses_to_be_sharded_without_them():
    first, second = said("fsdp")
    assert first == second
    of_fsdp, of_layer = first
    assert "doesn't support scalar parameters" in of_fsdp
    assert "the weight's step size was calibrated for the weight that is here" in of_layer
