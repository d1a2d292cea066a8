"""Plugins: known without being imported, imported only where trusted, wrong in one clear line."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from lsqctl import discovery, trust
from lsqctl.datasets import DATASETS
from lsqctl.discovery import NAME_PATTERN
from lsqctl.errors import DataError, NotFound, PluginError, StoreError
from lsqctl.launchers import LAUNCHERS
from lsqctl.leaderboard.formats import FORMATS
from lsqctl.models import MODELS
from lsqctl.models.factory import build_model, build_on_meta
from lsqctl.recipe import DataSection, Recipe, load_stored
from lsqctl.store import open_store
from lsqctl.testing import board_format_laws, dataset_laws, model_laws
from lsqctl.trackers import TRACKERS
from lsqctl.training.dataset_loader import open_dataset
from lsqctl.training.runtime import ExecutionContext, execution_environment
from lsqctl.training.teacher_logits import TeacherLogits
from lsqctl.worker.execute import code_change_messages
from tests.inside import Here
from tests.store.samples import identity, result, take
from tests.training.attempts import run
from tests.training.conftest import session_of, tiny

NET = """
from torch import nn
from lsqctl.plugins import model

@model("tinynet")
def tinynet(*, num_classes, in_channels, image_size):
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, num_classes)
    )
"""
DATA = """
import numpy as np
from lsqctl.plugins import InMemoryDataset, dataset

@dataset("dots", title="Dots", classes=2, channels=1, image_size=4, mean=(0.5,), std=(0.25,),
         pad=0, flip=False)
class Dots(InMemoryDataset):
    def read(self, data_dir):
        labels = np.arange(8, dtype=np.int64) % 2
        pixels = np.repeat(labels, 16).astype(np.uint8).reshape(8, 1, 4, 4)
        return (pixels, labels), (pixels, labels), "made up"
"""
FORMAT = """
from lsqctl.plugins import board_format

@board_format("names", description="names alone")
def write(board, options):
    return "".join(f"{entry.model!r}\\n" for entry in board.entries) or "none\\n"
"""
RECIPE = "model: {name: flowers/tinynet}\ndata: {name: digits}\ntrain: {epochs: 1}\n"


class Desk:
    """A workspace with plugins, the user's own folder for settings, and the command line."""

    def __init__(self, here: Here, folder: Path) -> None:
        self.here, self.plugins = here, folder / ".lsqctl" / "plugins"
        self.plugins.mkdir(parents=True, mode=0o700)
        (folder / ".lsqctl").chmod(0o700)

    def write(self, source: str, name: str = "flowers", *, trusted: bool = True) -> Path:
        path = self.plugins / f"{name}.py"
        path.write_text(source)
        path.chmod(0o600)
        if trusted:
            self.here("plugins", "trust", str(path))
        return path

    def recipe(self, text: str = RECIPE) -> str:
        (self.here.folder / "flower.yaml").write_text(text)
        return "flower.yaml"


@pytest.fixture
def desk(here, tmp_path, monkeypatch):
    monkeypatch.setenv("LSQCTL_PLUGINS", "1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return Desk(here, tmp_path)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return a maker of installed packages: name, entry points by group, files of the package."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def make(package: str, entries: dict[str, str], **files: str) -> Path:
        folder, info = site / package, site / f"{package}-1.2.dist-info"
        for new in (folder, info):
            new.mkdir()
        (folder / "__init__.py").write_text("")
        for name, source in files.items():
            (folder / f"{name}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        lines = [f"[{group}]\n{entry}\n" for group, entry in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        importlib.invalidate_caches()
        discovery._installed.cache_clear()
        return folder

    yield make
    discovery._installed.cache_clear()


def test_a_file_that_nobody_trusted_is_not_imported_and_the_line_says_how_to_trust_it(desk):
    path = desk.write(f"open({str(desk.plugins / 'ran')!r}, 'w')\n{NET}", trusted=False)
    said = desk.here("submit", desk.recipe(), code=2).stderr
    assert f"{path} is not trusted" in said
    assert f"lsqctl plugins trust {path}" in said
    assert not (desk.plugins / "ran").exists()


def test_what_a_trusted_file_declares_is_known_without_importing_it(desk):
    desk.write(NET.replace("from torch", "import nothing_like_this\nfrom torch"))
    assert MODELS.find("flowers/tinynet") == MODELS["resnet8"]
    rows = json.loads(desk.here("plugins", "ls", "--json").stdout)["plugins"]
    assert [(row["name"], row["kind"], row["problem"]) for row in rows] == [
        ("flowers/tinynet", "model", "")
    ]


def test_a_file_that_changed_after_it_was_trusted_is_refused_until_it_is_trusted_again(desk):
    path = desk.write(NET)
    assert "flowers/tinynet" in MODELS
    path.write_text(NET + "# changed\n")
    assert "flowers/tinynet" not in MODELS
    with pytest.raises(PluginError, match="has changed since it was trusted"):
        build_model("flowers/tinynet", num_classes=3)
    desk.here("plugins", "trust", "flowers.py")
    assert "flowers/tinynet" in MODELS


def test_trust_lies_outside_of_the_workspace_and_does_not_travel_with_a_copy(desk, tmp_path):
    path = desk.write(NET)
    record = next((tmp_path / "config").rglob("*.json"))
    assert json.loads(record.read_text())["path"] == str(path)
    assert record.stat().st_mode & 0o077 == 0
    other = tmp_path / "other" / ".lsqctl"
    other.mkdir(parents=True, mode=0o700)
    desk.plugins.rename(other / "plugins")
    desk.here.enter(tmp_path / "other")
    for _ in ("without a record", "with that of another path"):
        with pytest.raises(PluginError, match="is not trusted"):
            MODELS.find("flowers/tinynet")
        record.replace(trust._record_path(other / "plugins" / "flowers.py"))
        record = trust._record_path(other / "plugins" / "flowers.py")


@pytest.mark.parametrize("which", ["file", "folder", "records"])
def test_what_others_may_write_to_is_not_imported(desk, tmp_path, which):
    path = desk.write(NET)
    planted = {"file": path, "folder": desk.plugins, "records": tmp_path / "config" / "lsqctl"}
    planted[which].chmod(0o770)
    with pytest.raises(StoreError, match=r"writable by its group.*chmod go-w"):
        build_model("flowers/tinynet", num_classes=3)


def test_a_link_to_code_elsewhere_is_no_plugin(desk, tmp_path):
    (tmp_path / "code.py").write_text(NET)
    (desk.plugins / "flowers.py").symlink_to(tmp_path / "code.py")
    assert "is a link" in desk.here("plugins", "trust", "flowers.py", code=1).stderr


def test_only_a_file_in_the_workspaces_folder_can_be_trusted(desk, tmp_path):
    (tmp_path / "mine.py").write_text(NET)
    assert "put it into" in desk.here("plugins", "trust", "mine.py", code=2).stderr
    desk.write(NET, trusted=False)
    said = desk.here("plugins", "trust", "flower.py", code=3).stderr
    assert "did you mean `flowers.py`?" in said


def test_plugins_are_switched_off_by_a_variable(desk, monkeypatch):
    desk.write(NET)
    monkeypatch.setenv("LSQCTL_PLUGINS", "0")
    assert "LSQCTL_PLUGINS is 0" in desk.here("submit", desk.recipe(), code=2).stderr
    assert desk.here("plugins", "ls").stdout == ""


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise RuntimeError('no licence')\n", r"raised RuntimeError: no licence \(.*, line 1\)"),
        ("import nothing_like_this\n", "raised ModuleNotFoundError: No module named"),
        ("raise SystemExit(3)\n", "raised SystemExit: 3"),
    ],
)
def test_what_a_plugin_raises_when_it_is_imported_is_one_line_with_its_place(desk, source, said):
    desk.write(source + NET)
    with pytest.raises(PluginError, match=f"the plugin `flowers` {said}"):
        build_model("flowers/tinynet", num_classes=3)
    told = desk.here("submit", desk.recipe(), code=1).stderr
    assert told.startswith("error: flower.yaml:1:15: the plugin `flowers` raised")
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            '@model("tinynet")',
            "@model(NAME)",
            r"flowers\.py, line 5: @model .*: `NAME` is none",
        ),
        (
            '@model("tinynet")',
            '@model("tinynet", deptwise=True)',
            "`deptwise`; did you mean `depth",
        ),
        ('@model("tinynet")', '@model("tinynet tinynet")', "`tinynet` is declared twice"),
        ('@model("tinynet")', "def f(:", r"`flowers`: .*flowers.py, line 5\)"),
    ],
)
def test_a_declaration_that_cannot_be_read_is_one_line(desk, old, new, said):
    desk.write(NET.replace(old, new))
    with pytest.raises(PluginError, match=said):
        MODELS.find("flowers/tinynet")
    assert re.search(said, desk.here("plugins", "ls").stdout)
    trusted = desk.here("plugins", "trust", "flowers.py").stderr
    assert "declares nothing that can be used" in trusted
    assert re.search(said, trusted)


def test_an_unknown_plugin_and_an_unknown_name_are_answered_with_the_nearest(desk):
    desk.write(NET)
    with pytest.raises(NotFound, match="no plugin is named `flower`; did you mean `flowers`"):
        MODELS.find("flower/tinynet")
    with pytest.raises(NotFound, match="did you mean `flowers/tinynet`"):
        MODELS.find("flowers/tinynt")
    said = desk.here("submit", desk.recipe(RECIPE.replace("tinynet", "tinynt")), code=2).stderr
    assert "flower.yaml:1:15" in said
    assert "did you mean `flowers/tinynet`" in said


def test_an_installed_package_is_found_by_its_entry_point_and_imported_when_it_is_needed(
    desk, installed
):
    folder = installed("leaves", {"lsqctl.models": "trees = leaves.nets"}, nets=NET)
    assert MODELS.find("trees/tinynet").depthwise is False
    assert "leaves" not in sys.modules
    (row,) = json.loads(desk.here("plugins", "ls", "--json").stdout)["plugins"]
    assert (row["name"], row["package"], row["version"]) == ("trees/tinynet", "leaves", "1.2")
    assert Path(row["path"]) == folder / "nets.py"
    before = row["sha256"]
    assert build_model("trees/tinynet", num_classes=3)
    assert "leaves.nets" in sys.modules
    (folder / "other.py").write_text("# a digest is of the whole package\n")
    assert MODELS.plugin_of("trees/tinynet").sha256() != before


def test_a_short_command_imports_no_plugin_and_does_not_look_for_one(desk, installed):
    ran = desk.plugins / "ran"
    witness = f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n{NET}"
    desk.write(witness)
    installed("twigs", {"lsqctl.models": "twigs = twigs.nets"}, nets=witness)
    desk.here("submit", "digits/resnet8-fp32")
    discovery._installed.cache_clear()
    for words in (("--help",), ("runs", "ls")):
        desk.here(*words)
        assert discovery._installed.cache_info().misses == 0
        assert not ran.exists()
    for name in ("flowers", "twigs"):  # and each would have told
        ran.unlink(missing_ok=True)
        build_model(f"{name}/tinynet", num_classes=3)
        assert ran.exists()


def test_a_name_that_two_claim_is_nobodys(desk, installed):
    desk.write(NET)
    installed("leaves", {"lsqctl.models": "flowers = leaves.nets"}, nets=NET)
    with pytest.raises(PluginError, match=r"`flowers` is taken: leaves and .*flowers.py claim it"):
        MODELS.find("flowers/tinynet")
    assert "is taken" in desk.here("plugins", "ls").stdout
    assert desk.here("doctor").stdout.count("is taken") == 1


def test_the_names_of_timm_and_of_lsqctl_are_no_plugins(desk, installed):
    installed("leaves", {"lsqctl.models": "lsqctl = leaves.nets"}, nets=NET)
    with pytest.raises(PluginError, match="`lsqctl`, claimed by leaves, is lsqctl's own"):
        MODELS.find("lsqctl/tinynet")
    assert not discovery.is_plugin_name("timm/resnet18")


def test_an_entry_point_without_its_module_says_where_it_was_looked_for(desk, installed):
    installed("leaves", {"lsqctl.models": "trees = leaves.nest"}, nets=NET)
    with pytest.raises(PluginError, match=r"`trees` of leaves has no source at leaves/nest.py"):
        MODELS.find("trees/tinynet")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("4, num_classes", "4, 5", r"gives \(1, 5\) of one image \(1, 8, 8\), and not logits"),
        ("return nn.Sequential(", "return (", "is a tuple, no nn.Module"),
    ],
)
def test_a_network_of_other_classes_is_refused_at_submit_as_a_worker_would(desk, old, new, said):
    desk.write(NET.replace(old, new))
    with pytest.raises(PluginError, match=said):
        build_model("flowers/tinynet", num_classes=10, in_channels=1, image_size=8)
    desk.here("submit", desk.recipe(), code=1)
    assert "no workspace" in desk.here("runs", "ls", code=3).stderr


def test_a_network_that_cannot_be_built_without_memory_is_built_with_it(desk):
    source = NET.replace("return nn.Sequential(", "assert str(nn.Linear(1, 1).weight.device) == "
                         "'cpu'\n    return nn.Sequential(")  # fmt: skip
    desk.write(source)
    network = build_on_meta("flowers/tinynet", num_classes=3, in_channels=1, image_size=8)
    assert {str(weight.device) for weight in network.parameters()} == {"cpu"}


def test_a_dataset_of_a_plugin_is_opened_as_a_built_in_one(desk, tmp_path):
    desk.write(DATA)
    splits = open_dataset(DataSection(name="flowers/dots"), tmp_path)
    assert (len(splits.train), splits.num_classes, splits.image_size) == (8, 2, 4)
    assert splits.notes == ("flowers/dots: made up",)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("classes=2", "classes=1", "classes is a whole number of at least 2, got 1"),
        ("std=(0.25,)", "std=(0,)", r"std is of pixels in 0\.\.1, as \(0\.5,\), got \(0,\)"),
        ("mean=(0.5,)", "mean=(127.5,)", r"mean is of pixels in 0\.\.1"),
        ("mean=(0.5,)", "mean=0.5", "mean and std need 1 numbers, one a channel"),
        ("channels=1", "channels='1'", "channels is a whole number of at least 1, got '1'"),
    ],
)
def test_what_no_dataset_can_be_is_refused_where_it_is_declared(desk, old, new, said):
    desk.write(DATA.replace(old, new))
    with pytest.raises(PluginError, match=rf"flowers\.py, line 5: .*{said}"):
        DATASETS.find("flowers/dots")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (".astype(np.uint8)", ".astype(np.float32)", "must have pixels of uint8, has float32"),
        ("8, 1, 4, 4", "8, 1, 2, 8", r"must have images of \(1, 4, 4\), as it declares"),
        ("dtype=np.int64) % 2", "dtype=np.int64) % 3", "must have labels of 0 to 1.*has 0 to 2"),
        ("dtype=np.int64)", "dtype=np.int32)", "must have labels of int64, has int32"),
        ("return (pixels, labels),", "return (pixels, labels[:7]),", "must have one label an"),
        ("return (pixels, labels),", "return pixels,", "must be a pair of arrays"),
        (', "made up"', "", r"read\(data_dir\) must return three: training split, evaluation"),
        ("(InMemoryDataset)", "", "is a Dots, and no subclass of InMemoryDataset"),
        ("        return", "        1 / 0\n        return", r"raised ZeroDivisionError.*line 11"),
    ],
)
def test_a_dataset_that_is_not_as_declared_is_one_line(desk, tmp_path, old, new, said):
    source = DATA.replace(old, new)
    if old == "(InMemoryDataset)":
        source = source.replace("def read", "def __init__(self, name): pass\n    def read")
    desk.write(source)
    with pytest.raises(PluginError, match=said):
        open_dataset(DataSection(name="flowers/dots"), tmp_path)


def test_a_dataset_may_return_tensors_and_one_that_finds_nothing_says_what_to_do(desk, tmp_path):
    made = DATA.replace("        return", "        import torch as t\n        return")
    tensors = "(t.tensor(pixels), t.tensor(labels))"
    desk.write(made.replace("(pixels, labels), (pixels, labels)", f"{tensors}, {tensors}"))
    assert len(open_dataset(DataSection(name="flowers/dots"), tmp_path).train) == 8
    desk.write(DATA.replace("        return", "        return None\n        return"))
    with pytest.raises(DataError, match="its plugin found none; put there what its plugin reads"):
        open_dataset(DataSection(name="flowers/dots"), tmp_path)


def test_a_dataset_may_return_its_three_in_a_list(desk, tmp_path):
    pairs = '(pixels, labels), (pixels, labels), "made up"'
    made_by_item = MAP_STYLE.replace("ITEM", f"{GREY}[None]")
    for source in (
        DATA.replace(pairs, f"[{pairs}]"),
        made_by_item.replace('*Dots.made, "one by one"', '[*Dots.made, "one by one"]'),
    ):
        desk.write(source)
        assert len(open_dataset(DataSection(name="flowers/dots"), tmp_path).train) in (8, 40)


def test_a_dataset_that_is_not_as_declared_is_refused_at_submit_as_a_worker_would(desk):
    desk.write(DATA.replace(".astype(np.uint8)", ".astype(np.float32)"))
    recipe = "model: {name: resnet8}\ndata: {name: flowers/dots}\n"
    assert "must have pixels of uint8" in desk.here("submit", desk.recipe(recipe), code=1).stderr
    assert "no workspace" in desk.here("runs", "ls", code=3).stderr


COUNTED = DATA.replace(
    "import numpy", "import itertools\nCOUNTER = itertools.count()\nimport numpy"
)


def test_a_dataset_is_read_once_and_one_that_varies_fails_the_law_and_no_resume(desk, tmp_path):
    desk.write(
        COUNTED.replace("        return", "        pixels[0] = next(COUNTER)\n        return")
    )
    data = DataSection(name="flowers/dots")
    first = [open_dataset(data, tmp_path).train.pixels[0].max().item() for _ in range(2)]
    assert first == [0, 1]
    law = next(law for law in dataset_laws("flowers/dots", tmp_path) if "twice" in law.sentence)
    with pytest.raises(PluginError, match="two readings have different digests"):
        law()
    recipe = tiny(model={"name": "resnet8"}, data={"name": "flowers/dots", "pad": 0})
    context = ExecutionContext(run_dir=tmp_path / "run", data_dir=tmp_path)
    run(recipe, context, stop_after=0)
    with pytest.raises(DataError, match=r"is not what step \d+ was trained on: its digest"):
        run(recipe, context)


MAP_STYLE = """
import numpy as np
import torch
from PIL import Image
from lsqctl.plugins import MapDataset, dataset

class Items(torch.utils.data.Dataset):
    def __init__(self, count):
        self.count, self.asked = count, 0
    def __len__(self):
        return self.count
    def __getitem__(self, index):
        self.asked += 1
        image = ITEM
        return image, torch.tensor(index % 2)

@dataset("dots", title="Dots", classes=2, channels=1, image_size=4, mean=(0.5,), std=(0.5,),
         pad=0, flip=False)
class Dots(MapDataset):
    def splits(self, data_dir):
        Dots.made = Items(40), Items(4)
        return *Dots.made, "one by one"
"""
GREY = "np.full((4, 4), index, dtype=np.uint8)"


@pytest.mark.parametrize(
    "item", [f"{GREY}[None]", f"torch.from_numpy({GREY}[None])", f"Image.fromarray({GREY})"]
)
def test_a_map_style_dataset_is_taken_and_each_item_read_once_but_for_a_sample(
    desk, tmp_path, item
):
    desk.write(MAP_STYLE.replace("ITEM", item))
    splits = open_dataset(DataSection(name="flowers/dots"), tmp_path)
    assert splits.train.pixels[:, 0, 0, 0].tolist() == list(range(40))
    assert splits.train.labels.tolist() == [0, 1] * 20
    assert splits.notes == ("flowers/dots: one by one",)
    train, evaluation = DATASETS.load("flowers/dots").made
    assert (train.asked, evaluation.asked) == (40 + 20, 4 + 4)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("np.full((1, 4, 4), self.asked, dtype=np.uint8)", "item 0 of the training split varies"),
        ("np.zeros((1, 4, 4))", r"item 0 .* must be an image uint8 \(1, 4, 4\), is float64"),
        ("np.zeros((1, 4, 4 + index // 30), np.uint8)", r"item 30 .* is uint8 \(1, 4, 5\)"),
        ("np.zeros((3, 4, 4), np.uint8)", r"item 0 .* is uint8 \(3, 4, 4\)"),
        ("np.zeros((1, 4, 4), np.float32)", "leave out ToTensor and Normalize"),
    ],
)
def test_an_item_that_is_none_or_varies_is_one_line(desk, tmp_path, item, said):
    desk.write(MAP_STYLE.replace("ITEM", item))
    with pytest.raises(PluginError, match=said):
        open_dataset(DataSection(name="flowers/dots"), tmp_path)


@pytest.mark.parametrize("label", ["'cat'", "None", "0.5", "torch.eye(2)", "float('inf')"])
def test_a_label_that_is_no_number_of_a_class_is_one_line(desk, tmp_path, label):
    source = MAP_STYLE.replace("ITEM", f"{GREY}[None]")
    desk.write(source.replace("torch.tensor(index % 2)", label))
    said = "item 0 of the training split must have the number of its class as label, from 0, is "
    with pytest.raises(PluginError, match=said):
        open_dataset(DataSection(name="flowers/dots"), tmp_path)


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ("Items(40), Items(4)", "must return three: the training split, the evaluation split"),
        ("Items(40), iter('ab'), ''", "test split, of the class str_.*, has no length"),
        ("Items(10**15), Items(4), ''", "the 1,000,000,000,000,000 images of the training split"),
        ("Items(40), Items(0), ''", "the test split must have one label an image, has"),
    ],
)
def test_splits_that_cannot_be_read_are_one_line(desk, tmp_path, splits, said):
    source = MAP_STYLE.replace("ITEM", f"{GREY}[None]")
    desk.write(source.replace('*Dots.made, "one by one"', splits))
    with pytest.raises(PluginError, match=said):
        open_dataset(DataSection(name="flowers/dots"), tmp_path)


def test_a_format_of_a_plugin_writes_the_board_and_an_ill_one_is_one_line(desk):
    desk.write(FORMAT)
    told = desk.here("leaderboard", "--format", "flowers/names")
    assert "'" in told.stdout
    desk.write(FORMAT.replace("description", "ending='.who', description"))
    desk.here("export", "board.who")
    assert (desk.here.folder / "board.who").read_text() == told.stdout
    desk.write(FORMAT.replace("return ", "return 3 or "))
    said = desk.here("leaderboard", "--format", "flowers/names", code=1).stderr
    assert "the format flowers/names wrote a int, no text" in said
    assert "is not trusted" not in said


def test_package_version_and_digest_are_provenance_and_a_change_is_told_to_the_run(desk, tmp_path):
    path = desk.write(NET)
    desk.here("submit", desk.recipe())
    with open_store(f"sqlite:///{tmp_path}/.lsqctl/lsqctl.db") as store:
        detail = store.runs.detail(store.runs.list()[0].id)
    entry = detail.provenance["plugins"]["model flowers/tinynet"]
    assert entry["path"] == str(path)
    recipe, context = load_stored(detail.recipe), ExecutionContext(tmp_path, tmp_path)
    before = execution_environment(context, recipe)
    assert before["plugin model flowers/tinynet"] == entry["sha256"][:16]
    assert code_change_messages(detail.provenance, recipe) == []
    desk.write(NET + "# another digest\n")
    assert execution_environment(context, recipe) != before
    (message,) = code_change_messages(detail.provenance, recipe)
    assert "the plugin of model flowers/tinynet has changed" in message.text


def test_a_teachers_outputs_are_kept_by_the_source_of_its_plugin(desk, tmp_path):
    """The same weights in a network that computes otherwise give other outputs."""

    def kept(network: str) -> TeacherLogits:
        weights = tmp_path / f"{network.replace('/', '-')}.pt"
        if not weights.exists():
            torch.save(build_model(network, num_classes=10, in_channels=1).state_dict(), weights)
        job = ExecutionContext(tmp_path, tmp_path, inputs={"distill.teacher": weights})
        distill = {"teacher": "teacher.pt", "teacher_model": network, "cache": True}
        store = session_of(tiny(distill=distill, data={"views": 1}), job).teacher_logits
        assert store is not None
        return store

    path = desk.write(NET)
    first = kept("flowers/tinynet")
    assert first.about["plugin"] == hashlib.sha256(path.read_bytes()).hexdigest()
    desk.write(
        NET.replace("nn.Conv2d(in_channels, 4, 3)", "nn.Conv2d(in_channels, 4, 3, padding=1)")
    )
    other = kept("flowers/tinynet")
    assert {key for key in first.about if first.about[key] != other.about[key]} == {"plugin"}
    assert other.folder != first.folder
    assert "plugin" not in kept("resnet8").about  # what was kept of others before is found


def test_a_run_whose_plugin_is_gone_is_still_listed_and_shown(desk):
    path = desk.write(NET)
    run = desk.here("submit", desk.recipe(), "-q").stdout.strip()
    path.unlink()
    assert run in desk.here("runs", "ls").stdout
    desk.here("runs", "show", run)
    desk.here("leaderboard")
    stored = {"name": "x", "model": {"name": "flowers/tinynet"}, "data": {"name": "digits"}}
    with pytest.raises(PluginError, match="x: no plugin is named `flowers`"):
        load_stored(stored)


def test_an_import_says_which_plugins_its_runs_need_and_what_makes_them_known(
    desk, installed, tmp_path
):
    desk.write(NET)
    installed("gardens", {"lsqctl.datasets": "gardens = gardens.data"}, data=DATA)
    desk.here("submit", desk.recipe(RECIPE.replace("digits", "gardens/dots")))
    with open_store(f"sqlite:///{tmp_path}/.lsqctl/lsqctl.db") as store:
        store.workers.register(identity("w1"))
        store.queue.finish(take(store).lease, result())
    desk.here("runs", "export", "@last", "mine.lsq")
    assert "plugin" not in desk.here("runs", "import", "mine.lsq").stderr
    shutil.rmtree(tmp_path / "site" / "gardens")
    shutil.rmtree(tmp_path / "site" / "gardens-1.2.dist-info")
    discovery._installed.cache_clear()
    elsewhere = ("--home", "other")
    told = desk.here(*elsewhere, "runs", "import", "mine.lsq")
    folder = tmp_path / "other" / "plugins"
    assert "1 run taken in" in told.stderr
    assert f"put it into {folder}, and `lsqctl plugins trust flowers.py`" in told.stderr
    assert (
        "the dataset gardens/dots is of a plugin that cannot be used here, but for its results: "
        "install the package gardens 1.2" in told.stderr
    )
    assert told.stdout.strip() in desk.here(*elsewhere, "leaderboard", "--json").stdout
    other = tmp_path / "third" / "plugins"
    other.mkdir(parents=True, mode=0o700)
    other.parent.chmod(0o700)
    (other / "flowers.py").write_text(NET)
    told = desk.here("--home", "third", "runs", "import", "mine.lsq", "--json")
    missing = json.loads(told.stdout)["transfer"]["missing_plugins"]
    assert f"lsqctl plugins trust {other / 'flowers.py'}" in missing["model flowers/tinynet"]


def test_doctor_names_what_plugins_declare_and_what_is_wrong_with_one(desk):
    desk.write(NET)
    desk.write(NET, "weeds", trusted=False)
    said = desk.here("doctor").stdout
    assert "plugins declare 1 name: flowers/tinynet" in said
    assert "weeds.py is not trusted" in said


def test_a_built_in_name_is_found_without_a_search_for_plugins(desk, monkeypatch):
    monkeypatch.setattr(discovery, "all_plugins", pytest.fail)
    desk.here("submit", "digits/resnet8-fp32")
    desk.here("leaderboard")
    desk.here("data", "ls")


def test_the_pattern_of_names_takes_no_path():
    recipe = {"name": "x", "data": {"name": "digits"}}
    for name in ("../evil/net", "a/../b", "a//b", "/a/b", "a/b/c", "a/.b"):
        with pytest.raises(ValueError, match="is not one of the choices"):
            Recipe.model_validate(recipe | {"model": {"name": name}})
    assert NAME_PATTERN.count("/") == 1


@pytest.mark.parametrize(
    "law",
    [
        *model_laws("resnet8"),
        *dataset_laws("digits", Path()),
        *(law for name in ("csv", "html") for law in board_format_laws(name)),
    ],
    ids=str,
)
def test_what_is_built_in_keeps_the_laws_of_plugins(law):
    law()


BROKEN = {
    "the same seed gives the same first weights": ("nn.Flatten()", "nn.Flatten(), Noise()"),
    "in evaluation, an image is judged without the others of its batch": ("nn.Flatten()", "Mean()"),
    "quantized to 4 bits, every step size and weight is trained": ("nn.Flatten()", "Cut()"),
    "quantized to 4 bits, every step size and weight is trained ": ("nn.Flatten()", "Spare()"),
    "quantized to 4 bits, every step size and weight is trained  ": (
        "nn.Conv2d(in_channels, 4, 3)",
        "nn.utils.spectral_norm(nn.Conv2d(in_channels, 4, 3))",
    ),
    "it declares depthwise convolutions where it has some": (
        "nn.Conv2d(in_channels, 4, 3)",
        "nn.Conv2d(in_channels, 3, 3, groups=3), nn.Conv2d(3, 4, 1)",
    ),
    "its state is all that it is: loaded into another, it computes the same": (
        "nn.Flatten()",
        "nn.Flatten(), Hidden()",
    ),
}
LAYERS = """
import itertools, torch
COUNT = itertools.count(1)
class Noise(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.full((4,), float(next(COUNT))))
    def forward(self, x):
        return x * self.w
class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = float(next(COUNT))
    def forward(self, x):
        return x * self.w
class Mean(nn.Module):
    def forward(self, x):
        x = x.flatten(1)
        return x - x.mean(0, keepdim=True)
class Spare(nn.Module):
    def __init__(self):
        super().__init__()
        self.never = nn.Linear(2, 2)
    def forward(self, x):
        return x.flatten(1)
class Cut(nn.Module):
    def forward(self, x):
        return x.flatten(1).detach()
"""

DROPPED = """
import torch
class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.a.bias.requires_grad_(False)
    def forward(self, x):
        for layer in (self.a, self.b):
            if not self.training or torch.rand(()) < 0.3:
                x = layer(x)
        return x
"""


@pytest.mark.parametrize("sentence", BROKEN)
def test_a_network_that_breaks_a_law_is_told_which(desk, sentence):
    desk.write(NET.replace(*BROKEN[sentence]) + LAYERS)
    broken = []
    for law in model_laws("flowers/tinynet", image_size=8):
        try:
            law()
        except PluginError:
            broken.append(str(law))
    assert sentence.strip() in broken


def test_a_layer_that_is_never_reached_is_found_before_a_run_is_queued(desk):
    desk.write(NET.replace("nn.Flatten()", "Spare()") + LAYERS)
    recipe = desk.recipe(RECIPE + "quant: {weight_bits: 4, act_bits: 4}\n")
    said = desk.here("submit", recipe, "--dry-run", code=2).stderr
    assert "flower.yaml:1:15: flowers/tinynet cannot be quantized: the forward pass in eval" in said
    assert "does not reach 2.never: remove what it leaves out" in said
    desk.here("submit", desk.recipe(), "--dry-run")  # of full precision: nothing is calibrated


def test_a_network_whose_layers_are_left_out_at_random_or_frozen_keeps_its_law(desk):
    source = NET.replace("nn.AdaptiveAvgPool2d(1), ", "Dropped(), nn.AdaptiveAvgPool2d(1), ")
    desk.write(source + DROPPED)
    laws = {str(law): law for law in model_laws("flowers/tinynet", image_size=8)}
    laws["quantized to 4 bits, every step size and weight is trained"]()


def test_a_network_of_one_size_of_images_is_checked_at_that_size(desk):
    refuses = "    if image_size != 12: raise ValueError('it takes 12 x 12')\n    return nn.Seq"
    desk.write(NET.replace("    return nn.Seq", refuses))
    told = desk.here("plugins", "check", "flowers/tinynet", code=1).stdout
    assert "pixels: it takes 12 x 12; --image-size says which to try" in told
    desk.here("plugins", "check", "flowers/tinynet", "--image-size", "12")


def test_check_says_what_is_wrong_with_a_declaration_of_any_kind(desk):
    desk.write(DATA.replace("classes=2", "classes=TWO") + NET)
    said = desk.here("plugins", "check", "flowers/dots", code=1).stderr
    assert "@dataset takes literals: `TWO` is none; write its value out" in said


def test_check_asks_every_law_and_ends_with_1_where_one_is_broken(desk):
    desk.write(DATA.replace("arange(8, dtype=np.int64) % 2", "zeros(8, np.int64)"))
    told = desk.here("plugins", "check", "flowers/dots", code=1)
    rows = {line.split("\t")[2]: line.split("\t")[0] for line in told.stdout.splitlines()}
    assert rows.pop("every class has an image to train on") == "broken"
    assert set(rows.values()) == {"kept"}
    assert "1 law of 4 broken" in told.stderr


def test_every_kind_has_a_registry_that_plugins_may_join():
    registries = (MODELS, DATASETS, FORMATS, TRACKERS, LAUNCHERS)
    groups = {registry.group: registry.noun for registry in registries}
    assert groups == dict(discovery.GROUPS)
