"""docs/data-layouts.md tells the truth: each layout that it shows is found and taken."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lsqctl.datasets import DATASETS
from tests.conftest import FULL, CommandLine

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "data-layouts.md").read_text("utf-8")
FOUND = {"flowers": (2, 4, 2), "leaves.csv": (2, 2, 2), "all.txt": (4, 6, 4),
         "pebbles.csv": (2, 8, 2)}  # fmt: skip


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[list[str]]:
    return [
        shlex.split(line, comments=True) for line in re.findall(r"^\$ lsqctl (.*)", block, re.M)
    ]


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.as_posix().encode())
    pixels = np.random.default_rng(seed).integers(0, 255, (72, 72, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def laid_out(tmp_path, monkeypatch) -> Path:
    """A folder with the images that the page tells of, and the files that it shows."""
    data = tmp_path / ".lsqctl" / "data"
    for kind in ("daisy", "tulip"):
        for split, count in (("train", 2), ("val", 1)):
            for number in range(count):
                draw(data / "flowers" / split / kind / f"{number}.jpg")
    for number in range(1, 5):
        draw(data / "leaves" / f"00{number}.png")
    for kind in ("basalt", "flint"):
        for number in range(5):
            draw(data / "pebbles" / kind / f"{number}.png")
    (data / "leaves.csv").write_text(blocks("csv")[0])
    (data / "all.txt").write_text(blocks("text")[0])
    (data.parent / "plugins").mkdir(mode=0o700)
    (data.parent / "plugins" / "mine.py").write_text(blocks("python")[1])
    for path in (data.parent, data.parent / "plugins", data.parent / "plugins" / "mine.py"):
        path.chmod(0o700)
    for name, text in zip(("flowers", "arrays"), blocks("yaml"), strict=True):
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    exec(blocks("python")[0], {})
    return tmp_path


def test_each_layout_is_listed_and_named_by_a_recipe(laid_out, here):
    for words in commands(blocks("console")[0]):
        told = here(*words)
        assert told.stdout or "no errors" in told.stderr
    folders = json.loads(here("data", "ls", "--json").stdout)["image_folders"]
    counted = {one["path"]: (one["classes"], one["train"], one["val"]) for one in folders}
    assert counted == FOUND
    for name in FOUND:
        assert f"`data: {{name: imagefolder, path: {name}}}`" in PAGE or name == "pebbles.csv"
        here("submit", "flowers.yaml", "--set", f"data.path={name}", "--dry-run")


def test_arrays_of_a_plugin_are_checked_and_taken(laid_out):
    line = CommandLine(laid_out)
    line.environment |= {"LSQCTL_PLUGINS": "1", "HOME": str(laid_out / "home")}
    shape = np.random.default_rng(0)
    arrays = {
        "train_images": shape.integers(0, 255, (40, 1, 8, 8), np.uint8),
        "test_images": shape.integers(0, 255, (20, 1, 8, 8), np.uint8),
        "train_labels": np.arange(40) % 2,
        "test_labels": np.arange(20) % 2,
    }
    np.savez(laid_out / ".lsqctl" / "data" / "arrays.npz", **arrays)
    shown = commands(blocks("console")[1])
    assert [words[-1] for words in shown] == ["mine.py", "check", *["arrays.yaml"] * 2, "--dry-run"]
    for words in shown if FULL else (shown[0], shown[-1]):
        line(*words)


def test_its_table_has_every_published_set_and_where_it_lies():
    table = PAGE.partition("## Published sets")[2].partition("\n## ")[0]
    for name, info in DATASETS.items():
        if name != "imagefolder":
            assert f"`{name}`" in table
            assert all(f"`{path}`" in table for path in info.paths[:1] if name != "cifar100")
