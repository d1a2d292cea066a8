"""Each bad recipe says exactly what stands beside it.

After a change of wording: ``python -m tests.recipe_file.test_golden`` writes the texts anew; read
the difference before committing it. ``{datasets}`` and ``{models}`` stand for what the registries
hold: a new dataset changes no text.
"""

import os
from pathlib import Path

import pytest

from lsqctl.cli.diagnostics import format_diagnostics, format_summary
from lsqctl.datasets import DATASETS
from lsqctl.errors import RecipeError
from lsqctl.models import MODELS
from lsqctl.recipe_file import load
from lsqctl.services.layer_checks import check_layers

REGISTERED = {
    "{datasets}": " or ".join(", ".join(DATASETS).rsplit(", ", 1)),
    "all {models}:": f"all {len(MODELS)}:",
}
GOLDEN = Path(__file__).parent / "golden"
BAD = sorted(path.name for path in GOLDEN.glob("*.yaml"))


def said_of(name: str) -> str:
    try:
        faults = check_layers([load(Path(name))])
    except RecipeError as error:
        faults = list(error.diagnostics)
    assert faults, f"{name} was accepted"
    return format_diagnostics(faults) + "\n" + format_summary(faults, name) + "\n"


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recipe_is_refused_in_exactly_these_words(name, monkeypatch):
    monkeypatch.chdir(GOLDEN)
    expected = Path(name).with_suffix(".txt").read_text(encoding="utf-8")
    for placeholder, text in REGISTERED.items():
        expected = expected.replace(placeholder, text)
    assert said_of(name) == expected


def test_every_text_has_its_recipe():
    assert sorted(p.stem for p in GOLDEN.glob("*.txt")) == [Path(name).stem for name in BAD]


if __name__ == "__main__":
    os.chdir(GOLDEN)
    for bad in BAD:
        said = said_of(bad)
        for placeholder, text in REGISTERED.items():
            said = said.replace(text, placeholder)
        Path(bad).with_suffix(".txt").write_text(said, encoding="utf-8")
