"""The scripts of bench/ as modules: what tests call, and what they leave behind."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

BENCH = Path(__file__).resolve().parents[1] / "bench"


@contextmanager
def imported(name: str) -> Iterator[ModuleType]:
    """Give bench/NAME.py as a module; afterwards it is forgotten, and sys.path as it was."""
    before, label = list(sys.path), f"bench_{name}"
    spec = importlib.util.spec_from_file_location(label, BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[label] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = before
    yield module
    del sys.modules[label]
