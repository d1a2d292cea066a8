"""Laws of a trial: the recipe's own network, losses and pixels, in seconds, and one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lsqctl.cli.app import app
from lsqctl.errors import DataError
from lsqctl.recipe import Recipe
from lsqctl.recipe_file import bundled_recipes, load
from lsqctl.services.recipe_inputs import run_smoke_tests
from lsqctl.settings import load_settings
from lsqctl.training.smoke import smoke
from tests.conftest import fewer

IMAGENET = [name for name in bundled_recipes() if name.startswith("imagenet/")]


def recipe(model="squeezenet1_1", **sections):
    data = {"name": "imagenet", "resize": 72, "crop": 64}
    return Recipe.model_validate({"name": "x", "model": {"name": model}, "data": data} | sections)


def images(folder, count=4):
    for number in range(count):
        place = folder / f"class{number}"
        place.mkdir(parents=True)
        Image.new("RGB", (80, 90), (50 * number, 9, 9)).save(place / "a.jpeg")


@pytest.mark.parametrize("name", fewer(["digits/resnet8-fp32", "imagenet/resnet18-w4a4"], 1))
def test_a_bundled_recipe_takes_its_step(name, tmp_path):
    tried = smoke(load(name).cells[0].recipe, tmp_path)
    assert tried.image_source == ("real" if name.startswith("digits") else "generated")
    assert 0 < tried.loss < 100


PLACES = ["imagenet/train", "imagefolder/val", "imagenet-sample/val"]


@pytest.mark.parametrize("place", fewer(PLACES, 1))
def test_real_images_are_taken_where_there_are_any(tmp_path, place):
    images(tmp_path / place)
    assert smoke(recipe(), tmp_path).image_source == "real"


@pytest.mark.slow
def test_a_teacher_takes_part(tmp_path):
    teacher = {"teacher": "t.pt", "hard_weight": 0.0, "soft_weight": 1.0}
    quiet = smoke(recipe("resnet8", distill=teacher), tmp_path).loss
    assert smoke(recipe("resnet8", distill=teacher | {"soft_weight": 2.0}), tmp_path).loss == (
        pytest.approx(2 * quiet)
    )


def test_a_network_that_cannot_take_the_images_is_an_error(tmp_path):
    with pytest.raises(DataError, match="vit_b_16 cannot take images of 65 pixels"):
        smoke(recipe("vit_b_16", data={"name": "imagenet", "crop": 65}), tmp_path)


@pytest.mark.slow
def test_each_recipe_gets_one_line_and_a_failure_does_not_stop_the_rest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = "data: {name: imagenet, crop: 8}\nsweep: {grid: {seed: [0, 1]}}\n"
    Path("bad.yaml").write_text("model: {name: squeezenet1_1}\n" + small)
    words = ["recipe", "check", "--smoke", "bad.yaml", "digits/resnet8-w4a4"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    bad, good = done.stdout.splitlines()
    assert bad.startswith("failed  bad: RuntimeError: ")
    assert good.startswith("ok      digits/resnet8-w4a4: ")
    assert "2 recipes tried" in done.stderr
    assert "1 failed" in done.stderr
    data = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert [bool(one["error"]) for one in data["smoke"]] == [True, False]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", IMAGENET)
def test_every_imagenet_recipe_takes_its_step(name):
    if "adlik" in name:
        pytest.importorskip("timm", reason="needs the extra `timm`")
    threads = torch.get_num_threads()
    found = list(run_smoke_tests([load(name)], load_settings()))
    torch.set_num_threads(threads)
    assert found
    assert [one.error for one in found if one.error] == []


@pytest.mark.parametrize("limits", fewer([{"limit_train": 1}, {"limit_eval": 1}], 1))
def test_a_recipe_of_one_image_is_tried_with_more(tmp_path, limits):
    tiny = Recipe.model_validate(
        {"name": "x", "model": {"name": "resnet8"}, "data": {"name": "digits"} | limits}
    )
    assert smoke(tiny, tmp_path).loss > 0
