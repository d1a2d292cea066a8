"""docs/quantization.md tells the truth: its recipes load, its code and its commands run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lsqctl.recipe import OverrideSection, QuantSection
from lsqctl.recipe_file import load
from lsqctl.services.layer_checks import check_layers
from tests.conftest import run_python

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "quantization.md").read_text()
HEAD = "model: {name: resnet18}\ndata: {name: imagenet}\n"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_recipe_fits_a_network(tmp_path, text):
    (tmp_path / "x.yaml").write_text(HEAD + text)
    loaded = load(tmp_path / "x.yaml")
    assert check_layers([loaded]) == []
    assert loaded.warnings == ()


def test_the_code_runs(cli):
    (code,) = blocks("python")
    run_python(code, cli.folder, cli.environment)


def test_every_command_runs(cli):
    commands = [line[2:].split() for block in blocks("console") for line in block.splitlines()]
    assert commands
    for program, *words in commands:
        assert program == "lsqctl"
        cli(*words)


def test_it_names_every_setting():
    for name in (*QuantSection.model_fields, *OverrideSection.model_fields):
        assert name in PAGE, name
