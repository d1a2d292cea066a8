"""`data.path` that names a list: files with labels, or folders taken together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lsqctl.datasets.identity import dataset_identity
from lsqctl.datasets.image_folders import FolderDataset
from lsqctl.errors import DataError
from lsqctl.services.pack import PackOptions, pack_folder
from lsqctl.settings import load_settings
from tests.services.test_data_folder import make_folder, planned, write
from tests.training.attempts import run_whole_and_cut
from tests.training.conftest import tiny

DATA = {"name": "imagefolder", "resize": 36, "crop": 32, "pad": 0, "batch_size": 3, "flip": True}


@pytest.fixture
def data(tmp_path):
    """Two folders, the second with a class of its own, and a list of files and one of folders."""
    folder = tmp_path / "data"
    make_folder(folder, "day")
    make_folder(folder, "night", classes=3)
    shutil.rmtree(folder / "night" / "train" / "class0")
    shutil.rmtree(folder / "night" / "val" / "class0")
    lines = [
        f"day/{split}/{label}/{number}.png,{label},{split}"
        for split, count in (("train", 3), ("val", 2))
        for label in ("class1", "class0")
        for number in range(count)
    ]
    (folder / "some.csv").write_text("\n".join(["file,label,split", *lines, ""]))
    (folder / "both.txt").write_text("# all that we have\nday\nnight\n")
    return folder


def named(data, name):
    """Return files by the last parts of their paths, and the names of their classes, of a split."""
    splits = FolderDataset("imagefolder", name).list_splits(data)
    return [
        [("/".join(Path(f).parts[-4:]), split.classes[label]) for f, label in split.files]
        for split in splits
    ]


def test_a_list_of_files_gives_each_the_class_and_the_split_of_its_line(data):
    train, evaluation = named(data, "some.csv")
    assert train[0] == ("day/train/class1/0.png", "class1")
    assert train[-1] == ("day/train/class0/2.png", "class0")
    assert (len(train), len(evaluation)) == (6, 4)


def test_a_list_of_folders_is_one_set_with_the_classes_of_all(data):
    train, evaluation = named(data, "both.txt")
    assert {label for _, label in train} == {"class0", "class1", "class2"}
    assert train[:6] == named(data, "day")[0]
    assert [name for name, _ in train[6:]] == [
        f"night/train/class{label}/{number}.png" for label in (1, 2) for number in range(3)
    ]
    assert len(evaluation) == len(train) == 12


def test_packed_files_and_lists_of_files_may_stand_in_a_list_of_folders(data):
    options = PackOptions(resize=36)
    pack_folder(str(data / "night"), None, options, load_settings(), notify=print)
    (data / "mixed.txt").write_text("some.csv\nnight.pack\n")
    train, _ = FolderDataset("imagefolder", "mixed.txt").list_splits(data)
    assert (len(train.files), train.classes) == (12, ["class0", "class1", "class2"])
    assert dataset_identity("imagefolder", data, "mixed.txt").startswith("images-sha256:")
    with pytest.raises(DataError, match="packed with 36 pixels"):
        FolderDataset("imagefolder", "mixed.txt").check_use(data, resize=40, decoder="pil")


def change_a_label(text):
    return text.replace("0.png,class1,train", "0.png,class0,train", 1)


def move_to_the_other_split(text):
    return text.replace("2.png,class1,train", "2.png,class1,val", 1)


@pytest.mark.parametrize("change", [change_a_label, move_to_the_other_split])
def test_a_list_that_lies_elsewhere_is_the_same_data_and_a_changed_line_is_other(
    data, tmp_path, change
):
    before = dataset_identity("imagefolder", data, "some.csv")
    data.rename(tmp_path / "moved")
    moved = tmp_path / "moved" / "some.csv"
    assert dataset_identity("imagefolder", data, str(moved)) == before
    text = moved.read_text()
    assert change(text) != text
    moved.write_text(change(text))
    assert dataset_identity("imagefolder", data, str(moved)) != before


@pytest.mark.parametrize("name", ["some.csv", "both.txt"])
def test_a_changed_image_of_a_list_is_other_data(data, name):
    before = dataset_identity("imagefolder", data, name)
    shutil.copy(data / "day" / "train" / "class0" / "1.png", data / "day" / "val" / "class0")
    assert dataset_identity("imagefolder", data, name) != before


HEAD = "file,label,split\n"
GOOD = "day/train/class0/0.png,a,train\nday/val/class0/0.png,a,val\n"
BAD = {
    "no header": ("x.csv", GOOD, "its first line is not file,label,split"),
    "a column too few": ("x.csv", HEAD + "day/train/class0/0.png,a\n", ":2: is not file,label"),
    "no label": ("x.csv", HEAD + "day/train/class0/0.png,,val\n", ":2: is not file,label"),
    "a split of nobody": ("x.csv", HEAD + "day/val/class0/0.png,a,vall\n", "did you mean `val`?"),
    "no such file": ("x.csv", HEAD + "day/9.png,a,val\n", ":2: there is no file"),
    "no image": ("x.csv", HEAD + "some.csv,a,val\n", ":2: some.csv is no image by its ending"),
    "a file twice": ("x.csv", HEAD + GOOD + GOOD, ":4: "),
    "no val": ("x.csv", HEAD + GOOD.splitlines()[0], "no line says val"),
    "a class of one split": (
        "x.csv",
        HEAD + GOOD + "day/val/class0/1.png,aa,val\n",
        r"1 classes in train, 2 in val, they should be the same \(only in val: aa\)",
    ),
    "no such folder": ("x.txt", "dya\n", ":1: there is no .*did you mean `day`?"),
    "nothing": ("x.txt", "# nothing\n", "is empty"),
    "a list of lists": ("x.txt", "both.txt\n", ":1: both.txt is a list of folders"),
    "a folder twice": ("x.txt", "day\nday\n", ":2: day stands there already"),
    "what is no folder": ("x.txt", "day/train\n", "train/train is missing"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_list_that_is_wrong_is_refused_with_its_line(data, what):
    name, text, said = BAD[what]
    (data / name).write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        dataset_identity("imagefolder", data, name)
    assert "\n" not in str(caught.value)


def test_a_list_that_is_no_text_is_refused(data):
    (data / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is no text in UTF-8"):
        dataset_identity("imagefolder", data, "x.csv")


def test_lists_are_submitted_and_listed_and_a_bad_one_queues_nothing(data, here):
    here.monkeypatch.setenv("LSQCTL_DATA", str(data))
    (data / "readme.txt").write_text("bought on Monday\n")
    (data / "broken.txt").write_text("day\nnihgt\n")
    runs = planned(here, write(here, "some.csv", "a"), write(here, "both.txt", "b"))
    assert [run["recipe"]["data"]["path"] for run in runs] == ["some.csv", "both.txt"]
    folders = json.loads(here("data", "ls", "--json").stdout)["image_folders"]
    found = {one["path"]: (one["classes"], one["train"], one["val"]) for one in folders}
    assert found.keys() == {"day", "night", "some.csv", "both.txt", "broken.txt"}
    assert (found["some.csv"], found["both.txt"]) == ((2, 6, 4), (3, 12, 12))
    listed = here("data", "ls")
    assert "broken.txt\t0\t0\t0\tdoes not read" in listed.stdout
    assert f"warning: {data}/broken.txt:2: there is no {data}/nihgt; did you mean" in listed.stderr
    told = here("submit", write(here, "broken.txt", "c"), code=1).stderr
    assert "broken.txt:2: there is no" in told
    assert "did you mean `night`?" in told


@pytest.mark.slow
def test_a_run_on_a_list_is_resumed_to_the_bit(job, data):
    recipe = tiny(data=DATA | {"path": "some.csv"}, train={"epochs": 1})
    run_whole_and_cut(recipe, job, stop_after=2)
