"""docs/training.md tells the truth: its recipe is valid, and every key and metric exists."""

from __future__ import annotations

import re
from pathlib import Path

from lsqctl.recipe_file import load
from lsqctl.recipe_file.keys import FIELDS

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "training.md").read_text()


def test_its_recipe_is_accepted_and_means_what_it_says(tmp_path):
    (block,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    path = tmp_path / "mine.yaml"
    path.write_text(block)
    loaded = load(path)
    (cell,) = loaded.cells
    assert cell.recipe.train.headline_variant == "ema"
    assert cell.recipe.distill.soft_weight == 0.7


def test_every_key_that_it_names_exists():
    named = set(re.findall(r"`((?:train|data|quant|distill)\.\w+)", PAGE))
    assert len(named) >= 5
    assert named - {*FIELDS} == set()
