"""docs/training.md tells the truth: its recipe is valid, and every key and metric exists."""

from __future__ import annotations

import re
from pathlib import Path

from lsqctl.quant.methods import METHODS
from lsqctl.recipe_file import load
from lsqctl.recipe_file.keys import FIELDS

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "training.md").read_text()


def test_its_recipe_is_accepted_and_means_what_it_says(tmp_path):
    block, methods = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "methods.yaml").write_text("model: {name: cifar_resnet20}\n" + methods)
    (cell,) = load(tmp_path / "methods.yaml").cells
    assert cell.recipe.quant.transition_rate == 0.005
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


def test_its_loops_run():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for code in blocks:
        exec(code, {})


def test_its_table_has_every_method():
    assert {f"quant.{key}" for key in METHODS} <= set(re.findall(r"`(quant\.\w+)`", PAGE))
