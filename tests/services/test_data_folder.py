"""`data.path`, `data.limit_*` and `data ls`: any folder, a part of the images, what is there."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

import lsqctl
from lsqctl.errors import DataError
from lsqctl.leaderboard.rank import rank
from lsqctl.recipe import DataSection
from lsqctl.recipe_file import Changes, load
from lsqctl.run import EndReason
from lsqctl.training.dataset_loader import open_dataset
from lsqctl.worker.reasons import error_message
from tests.leaderboard.rows import published_result, row

RECIPE = """\
model: {name: squeezenet1_1}
data: {name: imagefolder, path: PATH, batch_size: 4, resize: 36, crop: 32}
train: {epochs: 1}
"""


def make_folder(root, name, classes=2, images=3):
    pixels = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(classes):
            folder = root / name / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(images):
                noise = pixels.integers(0, 255, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(noise).save(folder / f"{number}.png")


@pytest.fixture
def data(here):
    folder = here.folder / "data"
    make_folder(folder, "flowers")
    make_folder(folder, "birds", classes=3)
    here.monkeypatch.setenv("LSQCTL_DATA", str(folder))
    return folder


def write(here, path, name="own"):
    (here.folder / f"{name}.yaml").write_text(RECIPE.replace("PATH", str(path)))
    return f"{name}.yaml"


def planned(here, *words):
    return json.loads(here("submit", *words, "--dry-run", "--json").stdout)["runs"]


def test_recipes_name_any_number_of_image_folders(here, data):
    runs = planned(here, write(here, "flowers", "a"), write(here, "birds", "b"))
    assert [run["recipe"]["data"]["path"] for run in runs] == ["flowers", "birds"]
    section = DataSection(name="imagefolder", path="birds", resize=36, crop=32)
    splits = open_dataset(section, data)
    assert (splits.num_classes, len(splits.train), len(splits.evaluation)) == (3, 9, 9)
    assert (section.label, DataSection(name="imagefolder").label) == ("birds", "imagefolder")
    assert DataSection(name="imagefolder", path="x/cifar10").label == "imagefolder-cifar10"


def test_a_folder_may_lie_elsewhere_and_the_same_images_are_the_same_run(here, data, tmp_path):
    (inside,) = planned(here, write(here, "flowers"))
    (data / "flowers").rename(tmp_path / "elsewhere")
    (outside,) = planned(here, write(here, tmp_path / "elsewhere"))
    assert inside["recipe_sha256"] == outside["recipe_sha256"]
    (other,) = planned(here, write(here, "birds"))
    assert other["recipe_sha256"] != inside["recipe_sha256"]


def test_a_path_may_begin_with_the_home_folder_wherever_that_is(here, data, tmp_path):
    (inside,) = planned(here, write(here, "flowers"))
    (tmp_path / "home").mkdir()
    (data / "flowers").rename(tmp_path / "home" / "flowers")
    here.monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (at_home,) = planned(here, write(here, "~/flowers"))
    assert at_home["recipe_sha256"] == inside["recipe_sha256"]
    assert at_home["recipe"]["data"]["path"] == "~/flowers"
    section = DataSection(name="imagefolder", path="~/flowers", resize=36, crop=32)
    assert len(open_dataset(section, data).train) == 6
    assert f"{tmp_path}/home/flowers" in here("data", "ls", "own.yaml").stdout
    assert '"classes": 2' in here("recipe", "show", "own.yaml", "--json").stdout
    told = here("submit", write(here, "~/leaves"), code=1).stderr
    assert f"there is no folder {tmp_path}/home/leaves with" in told
    make_folder(tmp_path / "home", "leaves", classes=4, images=1)
    assert "real images" in here("recipe", "check", "own.yaml", "--smoke").stdout


def test_a_class_whose_name_is_no_text_is_refused_wherever_folders_are_listed(here, data):
    for split in ("train", "val"):
        folder = os.fsencode(data / "flowers" / split)
        os.rename(folder + b"/class0", folder + b"/caf\xe9")
    reason = f"{data}/flowers/train: the name of the class caf\\xe9 is no text in UTF-8: rename"
    assert reason in here("submit", write(here, "flowers"), code=1).stderr
    assert f"own.yaml:2:33: {reason}" in here("recipe", "check", "own.yaml").stderr
    assert reason in here("data", "pack", str(data / "flowers"), code=1).stderr
    listed = here("data", "ls")
    assert reason in listed.stderr
    assert "flowers\t0\t0\t0\tdoes not read" in listed.stdout
    assert "birds\t3\t9\t9\tdata: " in listed.stdout
    section = DataSection(name="imagefolder", path="flowers", resize=36, crop=32)
    with pytest.raises(DataError, match="is no text in UTF-8"):
        open_dataset(section, data)


def test_files_may_have_any_name_and_messages_of_them_are_text(here, data):
    folder = os.fsencode(data / "flowers" / "train" / "class0")
    os.rename(folder + b"/0.png", folder + b"/caf\xe9.png")
    os.mkfifo(folder + b"/pipe\xe9.png")
    assert planned(here, write(here, "flowers"))
    section = DataSection(name="imagefolder", path="flowers", resize=36, crop=32)
    splits = open_dataset(section, data)
    assert len(splits.train) == 6
    assert "pipe\\udce9.png" in "\n".join(splits.notes).encode().decode()
    message = error_message(DataError(f"{os.fsdecode(folder)}/caf\udce9.png"), EndReason.DATA)
    assert message.endswith("/caf\\udce9.png")


def test_what_a_recipe_lacks_is_said_with_file_line_and_column(here, data):
    name = write(here, "flower")
    for command, code in (("submit", 1), ("recipe check", 0)):
        told = here(*command.split(), name, code=code).stderr
        assert f"own.yaml:2:33: data.path: there is no folder {data}/flower" in told
    by_name = RECIPE.replace("path: PATH, ", "")
    (here.folder / name).write_text(by_name)
    assert "own.yaml:2:14: no imagefolder data in" in here("recipe", "check", name).stderr
    told = here("recipe", "check", name, "--set", "data.path=nowhere").stderr
    assert "as it is: --set: data.path: there is no folder" in told
    (here.folder / name).write_text(by_name.replace("squeezenet1_1", "resnet18, weights: w.pt"))
    (data / "flowers").rename(data / "imagefolder")
    told = here("recipe", "check", name).stderr
    assert "own.yaml:1:34: own: model.weights: no file w.pt beside the recipe" in told


def test_a_folder_that_is_not_there_is_refused_with_the_nearest(here, data):
    told = here("submit", write(here, "flower"), code=1).stderr
    assert f"there is no folder {data}/flower with a folder train" in told
    assert "did you mean `flowers`?" in told
    told = here("recipe", "check", "digits/resnet8-fp32", "--set", "data.path=flowers", code=2)
    assert "is no folder of images" in told.stdout + told.stderr


def test_a_limit_draws_the_same_images_for_every_seed_in_the_order_of_the_dataset(tmp_path):
    whole = open_dataset(DataSection(name="digits"), tmp_path)
    part = open_dataset(DataSection(name="digits", limit_train=100, limit_eval=50), tmp_path)
    assert (len(part.train), len(part.evaluation)) == (100, 50)
    assert part.digest != whole.digest
    kept = [
        next(n for n, image in enumerate(whole.evaluation.pixels) if torch.equal(image, one))
        for one in part.evaluation.pixels
    ]
    assert kept == sorted(kept)
    assert kept[-1] > 400  # not the first ones
    assert "partial: 100 of 1257 training images, 50 of 540 evaluated" in part.notes
    more = open_dataset(DataSection(name="digits", limit_train=10**6), tmp_path)
    assert more.digest == whole.digest


def test_image_folders_are_limited_too(data):
    section = DataSection(name="imagefolder", path="birds", resize=36, crop=32, limit_train=5)
    splits = open_dataset(section, data)
    assert (len(splits.train), len(splits.evaluation)) == (5, 9)
    pixels, labels = next(iter(splits.train.eval_batches([np.arange(5)])))
    assert pixels.shape == (5, 3, 32, 32)
    assert labels.tolist() == sorted(labels.tolist())


def test_runs_on_a_part_stand_in_a_table_of_their_own_and_say_so():
    rows = [row("whole"), row("part", partial=True)]
    whole, part = rank(rows, [published_result()]).tables
    assert [entry.model for entry in whole.rows if entry.is_local] == ["whole"]
    assert [(entry.model, entry.rank, entry.partial) for entry in part.rows] == [("part", 1, True)]
    assert part.group == (("part", "of the images"),)
    (only,) = rank(rows[1:]).tables
    assert only.group == part.group


def test_a_submission_with_a_limit_is_marked_as_partial(here):
    lsqctl.submit("digits/resnet8-fp32", set={"data.limit_train": 50})
    here("submit", "digits/resnet8-fp32")
    from lsqctl.services.workspace import open_workspace
    from lsqctl.settings import load_settings

    with open_workspace(load_settings()) as store:
        marks = store._database.read(
            lambda db: db.exec_driver_sql("SELECT partial FROM runs ORDER BY seq").scalars().all()
        )
    assert marks == [1, 0]
    (cell,) = load("digits/resnet8-fp32", Changes(sets=["data.limit_eval=3"])).cells
    assert cell.recipe.data.partial


def test_data_ls_says_what_is_there_and_what_recipes_would_use(here, data):
    (data / "nets").mkdir()
    (data / "nets" / "mine.pth").write_bytes(b"0" * 1000)
    told = here("data", "ls").stdout
    assert "birds\t3\t9\t9\tdata: {name: imagefolder, path: birds}" in told
    assert "nets/mine.pth\t1.00 kB" in told
    listed = json.loads(here("data", "ls", "--json").stdout)
    assert [folder["path"] for folder in listed["image_folders"]] == ["birds", "flowers"]
    words = (write(here, "flowers"), "digits/resnet8-fp32", "imagenet/adlik-resnet50-fp32")
    found = json.loads(here("data", "ls", *words, "--json").stdout)["recipes"]
    assert [(one["dataset"], one["present"]) for one in found] == [
        ("imagefolder", True),
        ("digits", True),
        ("imagenet", False),
    ]
    assert found[0]["location"] == str(data / "flowers")


def test_an_empty_class_is_refused_before_anything_is_queued(here, data):
    (data / "flowers" / "val" / "class9").mkdir()
    (data / "flowers" / "train" / "class9").mkdir()
    told = here("submit", write(here, "flowers"), code=1).stderr
    assert "class9 has no image" in told
    with pytest.raises(DataError, match="class9 has no image"):
        open_dataset(DataSection(name="imagefolder", path="flowers"), data)
