"""`data pack`: one file for a folder of images, the same bytes each time, refused where damaged."""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lsqctl.datasets.image_pack import read_pack
from lsqctl.errors import DataError, UsageError
from lsqctl.recipe import DataSection, cross_check
from lsqctl.services.pack import PackOptions, pack_folder
from lsqctl.settings import load_settings
from lsqctl.training import image_folder
from lsqctl.training.dataset_loader import open_dataset
from tests.services.test_data_folder import make_folder, planned, write
from tests.training.conftest import tiny

SECTION = DataSection(name="imagefolder", path="flowers.pack", resize=36, crop=32, flip=True)


@pytest.fixture
def data(here):
    folder = here.folder / "data"
    make_folder(folder, "flowers")
    wide = np.random.default_rng(1).integers(0, 255, (50, 90, 3), dtype=np.uint8)
    Image.fromarray(wide).save(folder / "flowers" / "train" / "class0" / "wide.jpg", quality=90)
    Image.fromarray(wide).save(folder / "flowers" / "val" / "class1" / "wide.png")
    here.monkeypatch.setenv("LSQCTL_DATA", str(folder))
    return folder


def pack(here, *words, code=0):
    return here("data", "pack", "flowers", "--resize", "40", *words, code=code)


def test_packed_images_are_those_of_the_folder_the_larger_ones_reduced(here, data):
    pack(here)
    packed = read_pack(data / "flowers.pack")
    assert (packed.resize, packed.classes) == (40, ["class0", "class1"])
    images = {
        f"{split}/{image.name}": image for split in packed.files for image, _ in packed.files[split]
    }
    assert list(images) == sorted(images, key=lambda name: (name.partition("/")[0], name))
    small, wide = images["train/class0/0.png"], images["train/class0/wide.jpg"]
    assert small.read() == (data / "flowers" / "train" / "class0" / "0.png").read_bytes()
    for image, kind in ((wide, "JPEG"), (images["val/class1/wide.png"], "PNG")):
        (here.folder / "one").write_bytes(image.read())
        with Image.open(here.folder / "one") as opened:
            assert (opened.format, opened.size) == (kind, (72, 40))
    folder = open_dataset(SECTION.model_copy(update={"path": "flowers"}), data)
    splits = open_dataset(SECTION, data)
    kept = [np.array([0, 1, 2])]  # of 40 pixels: not touched
    for seed, epoch in ((0, 0), (3, 7)):
        ours, theirs = (
            next(iter(one.train.train_batches(kept, seed=seed, epoch=epoch)))
            for one in (splits, folder)
        )
        assert torch.equal(ours[0], theirs[0])
    assert splits.digest != folder.digest
    assert splits.notes[0] == "flowers.pack: 7 and 7 packed images, each checked"


def test_a_photo_with_a_second_picture_is_a_jpeg_as_any_other(here, data, monkeypatch):
    photo, second = (Image.fromarray(np.full((50, 90, 3), grey, np.uint8)) for grey in (9, 200))
    file = data / "flowers" / "train" / "class0" / "phone.jpg"
    photo.save(file, format="MPO", save_all=True, append_images=[second])
    pack(here)
    packed = read_pack(data / "flowers.pack").files["train"]
    (image,) = (image for image, _ in packed if image.name == "class0/phone.jpg")
    with Image.open(io.BytesIO(image.read())) as opened:
        assert (opened.format, opened.getpixel((0, 0))) == ("JPEG", (9, 9, 9))
    monkeypatch.setattr(image_folder, "_torchcodec_decode", lambda path, _: path)
    assert image_folder.decode(str(file), "torchcodec") == str(file)


def test_packing_twice_gives_the_same_bytes_whatever_the_threads_and_the_place(here, data):
    pack(here)
    told = pack(here, "-o", "again.pack", "--threads", "3").stderr
    assert "again.pack: 14 images, classes: 2," in told
    first = (data / "flowers.pack").read_bytes()
    assert (here.folder / "again.pack").read_bytes() == first
    (data / "flowers").rename(here.folder / "moved")
    here("data", "pack", "moved", "--resize", "40", "--quality", "95")
    assert (here.folder / "moved.pack").read_bytes() == first
    here("data", "pack", "moved", "--resize", "40", "--quality", "60", "--force")
    assert (here.folder / "moved.pack").read_bytes() != first


def read_as_the_page_says(path):
    """Return what docs/images.md's reader gives: {split: [(label, bytes)]}."""
    page = (Path(__file__).parents[2] / "docs" / "images.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) <= 20
    names: dict[str, object] = {}
    exec(code, names)
    return names["read_pack"](path)


def test_the_commands_of_the_page_run_and_its_reader_reads_what_they_wrote(here, data):
    page = (Path(__file__).parents[2] / "docs" / "images.md").read_text()
    (block,) = re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        assert here(*line.removeprefix("$ lsqctl ").split())
    assert (here.folder / "flowers.pack").is_file()
    pack(here)
    found = read_as_the_page_says(data / "flowers.pack")
    packed = read_pack(data / "flowers.pack")
    for split, images in packed.files.items():
        assert found[split] == [(label, image.read()) for image, label in images]


def test_a_packed_file_is_a_recipe_s_images_wherever_it_lies_and_data_ls_has_it(here, data):
    pack(here)
    (inside,) = planned(here, write(here, "flowers.pack"))
    (data / "flowers.pack").rename(here.folder / "elsewhere.pack")
    (outside,) = planned(here, write(here, here.folder / "elsewhere.pack"))
    assert inside["recipe_sha256"] == outside["recipe_sha256"]
    (folder,) = planned(here, write(here, "flowers"))
    assert folder["recipe_sha256"] != inside["recipe_sha256"]
    (here.folder / "elsewhere.pack").rename(data / "flowers.pack")
    (data / "torn.pack").write_bytes(b"LSQPACK1")
    told = here("data", "ls").stdout
    assert "flowers.pack\t2\t7\t7\tdata: {name: imagefolder, path: flowers.pack}" in told
    assert "torn.pack\t0\t0\t0\tdamaged: pack it again" in told
    listed = json.loads(here("data", "ls", "--json").stdout)["image_folders"]
    assert [(one["path"], one["resize"]) for one in listed][:2] == [
        ("flowers", None),
        ("flowers.pack", 40),
    ]


NO_TEXT = ["caf\udce9", "class1"]


def with_index(content, change):
    """Return a packed file with a changed index whose hash is right."""
    length = struct.unpack("<Q", content[-48:-40])[0]
    index = json.loads(content[-48 - length : -48])
    change(index)
    text = json.dumps(index).encode()
    digest = hashlib.sha256(text).digest()
    return content[: -48 - length] + text + struct.pack("<Q32s8s", len(text), digest, b"LSQPACK1")


def entry_of(index):
    return index["splits"]["val"][0]


DAMAGES = {
    "cut": (lambda content: content[:-100], "was cut: its end is missing"),
    "cut to its first bytes": (lambda content: content[:20], "was cut: its end is missing"),
    "empty": (lambda content: b"", "is no packed images: it does not begin with LSQPACK1"),
    "foreign": (lambda content: b"PK\3\4" + content, "is no packed images"),
    "an image's bit": (lambda content: content[:100] + b"?" + content[101:], "is damaged: fetch"),
    "an index's bit": (lambda content: content[:-60] + b"?" + content[-59:], "index is damaged"),
    "another layout": (
        lambda content: with_index(content, lambda index: index.update(layout=2)),
        "its index is none of layout 1",
    ),
    "beyond its end": (
        lambda content: with_index(content, lambda index: entry_of(index).__setitem__(3, 10**12)),
        "its index is none of layout 1",
    ),
    "an unknown class": (
        lambda content: with_index(content, lambda index: entry_of(index).__setitem__(1, 2)),
        "its index is none of layout 1",
    ),
    "a text for a number": (
        lambda content: with_index(content, lambda index: entry_of(index).__setitem__(2, "8")),
        "its index is none of layout 1",
    ),
    "no list": (
        lambda content: with_index(content, lambda index: index["splits"].update(val={})),
        "its index is none of layout 1",
    ),
    "a class that is no text": (
        lambda content: with_index(content, lambda index: index.update(classes=NO_TEXT)),
        "the name of the class caf\\xe9 is no text in UTF-8",
    ),
    "no image of a class": (
        lambda content: with_index(content, lambda index: index["splits"].update(val=[])),
        "val has no image of class0: every class needs some",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_cut_or_foreign_is_refused_at_submit_as_by_a_worker(here, data, damage):
    change, said = DAMAGES[damage]
    pack(here)
    file = data / "flowers.pack"
    file.write_bytes(change(file.read_bytes()))
    told = here("submit", write(here, "flowers.pack"), code=1).stderr
    assert said in told
    assert "flowers.pack" in told
    if damage == "an image's bit":
        batches = open_dataset(SECTION, data).train.eval_batches([np.arange(7)])
        with pytest.raises(DataError, match=r"class0/0\.png is damaged"):
            list(batches)
    else:
        with pytest.raises(DataError, match=re.escape(said)):
            open_dataset(SECTION, data)


def test_a_folder_that_cannot_be_packed_leaves_no_file(here, data):
    broken = data / "flowers" / "val" / "class1" / "2.png"
    broken.write_bytes(broken.read_bytes()[:200])
    assert "class1/2.png does not open as an image" in pack(here, code=1).stderr
    (data / "flowers" / "train" / "class7").mkdir()
    assert "class7 has no image" in pack(here, code=1).stderr
    told = here("data", "pack", "flower", code=3).stderr
    assert "there is no folder flower" in told
    assert "did you mean `flowers`?" in told
    assert "ends in .pack" in pack(here, "-o", "flowers.zip", code=2).stderr
    (data / "flowers" / "train" / "class7").rmdir()
    broken.unlink()
    told = pack(here, "-o", "missing/flowers.pack", code=2).stderr
    assert "cannot write missing/flowers.pack: No such file" in told
    assert sorted(path.name for path in data.iterdir()) == ["flowers"]


@pytest.mark.parametrize(("inside", "called"), [("", "."), ("train", "..")])
def test_a_folder_that_is_called_by_dots_is_packed_under_its_own_name(here, data, inside, called):
    here.monkeypatch.chdir(data / "flowers" / inside)
    here("data", "pack", called, "--resize", "40")
    assert (data / "flowers.pack").is_file()
    assert "/ has no name to call the file by" in here("data", "pack", "/", code=2).stderr


def test_a_file_that_is_there_is_kept_unless_forced(here, data):
    pack(here)
    before = (data / "flowers.pack").read_bytes()
    assert "exists; --force overwrites it" in pack(here, "--quality", "50", code=2).stderr
    assert (data / "flowers.pack").read_bytes() == before
    with pytest.raises(UsageError, match="is a file: name a folder of images"):
        pack_folder("flowers.pack", None, PackOptions(), load_settings(), notify=print)


def test_images_are_not_enlarged_beyond_what_they_were_packed_with(here, data):
    pack(here)
    recipe = write(here, "flowers.pack")
    text = (here.folder / recipe).read_text().replace("resize: 36", "resize: 48")
    (here.folder / recipe).write_text(text)
    told = here("submit", recipe, code=1).stderr
    assert "was packed with 40 pixels, which would be enlarged to 48" in told
    assert "--resize 48" in told


def test_torchcodec_decodes_png_to_the_same_bytes_and_jpeg_to_nearly_the_same(here, data):
    pytest.importorskip("torchcodec")
    pack(here)
    batch = [np.arange(7)]
    by_decoder = {}
    for decoder in ("pil", "torchcodec"):
        section = SECTION.model_copy(update={"decoder": decoder})
        found = open_dataset(section, data)
        (by_decoder[decoder],) = (pixels for pixels, _ in found.train.eval_batches(batch))
        assert ("torchcodec" in found.preprocessing) == (decoder == "torchcodec")
    pngs = torch.tensor([True, True, True, False, True, True, True])  # the fourth is wide.jpg
    assert torch.equal(by_decoder["pil"][pngs], by_decoder["torchcodec"][pngs])
    difference = by_decoder["pil"].int() - by_decoder["torchcodec"].int()
    assert difference.abs().max() <= 16


def test_what_torchcodec_cannot_decode_is_named_and_what_it_does_not_read_is_left_to_pillow(
    here, data
):
    pytest.importorskip("torchcodec")
    section = SECTION.model_copy(update={"path": "flowers", "decoder": "torchcodec"})
    first = data / "flowers" / "val" / "class0" / "0.png"
    with Image.open(first) as image:
        image.save(first.with_name("0.bmp"))
    bmp, png = next(iter(open_dataset(section, data).evaluation.eval_batches([np.array([0, 1])])))[
        0
    ]
    assert torch.equal(bmp, png)
    first.write_bytes(first.read_bytes()[:200])
    batches = open_dataset(section, data).evaluation.eval_batches([np.array([1])])
    with pytest.raises(DataError, match=r"class0/0\.png does not decode"):
        list(batches)


def test_a_decoder_that_is_not_installed_is_refused_at_submit_in_one_line(here, data):
    here.monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    recipe = write(here, "flowers")
    told = here("submit", recipe, "--set", "data.decoder=torchcodec", code=1).stderr
    assert "torchcodec is not installed: pip install 'lsqctl[torchcodec]'" in told
    (conflict,) = cross_check(tiny(data={"decoder": "torchcodec"}))
    assert (conflict.key, conflict.hint) == ("data.decoder", "leave `decoder` out")


@pytest.mark.parametrize("error", ["OSError", "RuntimeError", "ImportError"])
def test_a_decoder_that_does_not_load_is_blamed_at_submit_and_before_any_image(here, data, error):
    broken = here.folder / "packages" / "torchcodec"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(f"raise {error}('libavutil.so.59: no such file\\nmore')\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchcodec"]:
        here.monkeypatch.delitem(sys.modules, name)
    here.monkeypatch.syspath_prepend(broken.parent)
    recipe, codec = write(here, "flowers"), ("--set", "data.decoder=torchcodec")
    reason = (
        "data.decoder: torchcodec is installed and does not load: libavutil.so.59: no such file;"
    )
    told = here("submit", recipe, *codec, code=1).stderr
    assert told.startswith(f"error: --set: {reason}")
    assert len(told.splitlines()) == 1
    assert reason in here("recipe", "check", recipe, *codec, "--smoke", code=1).stdout
    section = SECTION.model_copy(update={"path": "flowers", "decoder": "torchcodec"})
    (data / "flowers" / "train" / "class0" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=re.escape(reason)):
        open_dataset(section, data)
