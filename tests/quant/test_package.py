"""The package is light to import, complete, and its examples hold."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import lsqctl.quant

MODULES = sorted(m.name for m in pkgutil.iter_modules(lsqctl.quant.__path__))


def probe(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_the_package_and_its_specs_does_not_import_torch():
    code = "import sys; from lsqctl.quant import QuantSpec; print('torch' in sys.modules)"
    assert probe(code) == ["False"]


def test_the_library_is_usable_without_the_rest_of_lsqctl():
    code = (
        "import sys; from lsqctl.quant import *; "
        "print(*(m for m in sys.modules if m.startswith('lsqctl.')))"
    )
    assert all(name.startswith("lsqctl.quant") for name in probe(code))


def test_every_exported_name_exists_and_is_listed_by_dir():
    for name in lsqctl.quant.__all__:
        assert getattr(lsqctl.quant, name) is not None
    assert set(lsqctl.quant.__all__) <= set(dir(lsqctl.quant))


def test_no_submodule_bears_the_name_of_an_export():
    assert not set(MODULES) & set(lsqctl.quant.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        lsqctl.quant.quantise  # noqa: B018


@pytest.mark.parametrize("name", ["spec", "functional", "quantizer"])
def test_examples_in_docstrings_hold(name):
    result = doctest.testmod(importlib.import_module(f"lsqctl.quant.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
