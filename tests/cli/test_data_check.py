"""`data check`: every image that cannot be read, at once, of whatever holds images."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from tests.services.test_data_folder import make_folder
from tests.training.test_image_modes import png16

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)


@pytest.fixture
def flowers(here):
    """A folder of images in the data folder."""
    data = here.folder / "data"
    make_folder(data, "flowers")
    here.monkeypatch.setenv("LSQCTL_DATA", str(data))
    return data / "flowers"


def rows(done):
    return [tuple(line.split("\t")) for line in done.stdout.splitlines()]


def test_all_images_of_a_folder_that_cannot_be_read_are_named_at_once_with_the_reason(
    here, flowers
):
    said = here("data", "check", "flowers")
    assert (said.stdout, "images, all readable" in said.stderr) == ("", True)
    cut, empty, deep, text = (
        flowers / place
        for place in (
            "train/class0/0.png",
            "train/class1/z.png",
            "val/class0/y.png",
            "val/class1/x.jpg",
        )
    )
    Image.fromarray(PIXELS).save(cut)
    cut.write_bytes(cut.read_bytes()[:-300])  # its header reads
    empty.write_bytes(b"")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(deep)
    text.write_text("no image")
    os.mkfifo(flowers / "val" / "class1" / "pipe.png")
    done = here("data", "check", "flowers", "--threads", "2", code=1)
    assert [path for path, _ in rows(done)] == [str(path) for path in (cut, empty, deep, text)]
    reasons = dict(rows(done))
    assert "does not open as an image" in reasons[str(cut)]
    assert "do not fit into 8 bits" in reasons[str(deep)]
    assert "passed over 1 image name (no regular file)" in done.stderr
    assert "flowers: 4 of " in done.stderr
    checked = json.loads(here("data", "check", str(flowers), "--json", code=1).stdout)["checked"]
    assert [one["path"] for one in checked["unreadable"]] == [path for path, _ in rows(done)]


def test_images_of_16_bits_a_channel_and_those_in_train_and_val_are_counted(here, flowers):
    copied, train = flowers / "val/class1/copy.png", flowers / "train/class0"
    copied.write_bytes((train / "0.png").read_bytes())
    (flowers / "val/class0/link.png").symlink_to(train / "1.png")
    (train / "deep.png").write_bytes(png16(3))
    (train / "again.png").write_bytes((train / "0.png").read_bytes())  # which leaks nothing
    said = here("data", "check", "flowers").stderr
    assert "1 image more than 8 bits a channel" in said
    assert "deep.png" in said
    assert "2 images in train and in val" in said
    here("data", "pack", "flowers")
    checked = {
        what: json.loads(here("data", "check", what, "--json").stdout)["checked"]
        for what in ("flowers", str(flowers.parent / "flowers.pack"))
    }
    counts = [(one["in_both"]["count"], one["deep"]["count"]) for one in checked.values()]
    assert counts == [(2, 1)] * 2
    assert f"{copied} is {train / '0.png'}" in checked["flowers"]["in_both"]["examples"]
    assert len(checked["flowers"]["in_both"]["examples"]) == 2


def test_images_are_checked_by_the_decoder_that_a_recipe_names(here, flowers):
    """Pillow does not compare the checksum of a PNG's pixels, torchcodec does."""
    pytest.importorskip("torchcodec")
    image = flowers / "train" / "class0" / "0.png"
    Image.fromarray(PIXELS).save(image)
    content = bytearray(image.read_bytes())
    content[-13] ^= 1  # of the checksum before the last chunk, of 12 bytes
    image.write_bytes(content)
    here("data", "check", "flowers")
    ((named, reason),) = rows(here("data", "check", "flowers", "--decoder", "torchcodec", code=1))
    assert named == str(image)
    assert "CRC error" in reason
    here("data", "pack", "flowers")
    pack = flowers.parent / "flowers.pack"
    ((named, reason),) = rows(here("data", "check", str(pack), "--decoder", "torchcodec", code=1))
    assert named.startswith(f"{pack}: class0/")
    assert "--decoder" in here("data", "check", "flowers", "--decoder", "opencv", code=2).stderr


def test_packed_images_are_checked_by_their_hashes_too(here, flowers):
    here("data", "pack", "flowers", "--resize", "40")
    pack = flowers.parent / "flowers.pack"
    here("data", "check", "flowers.pack")
    content = bytearray(pack.read_bytes())
    start = content.index(b"IDAT", content.index(b"IDAT") + 1)
    content[start + 6] ^= 1
    pack.write_bytes(content)
    ((image, reason),) = rows(here("data", "check", str(pack), code=1))
    assert image.startswith(f"{pack}: class0/")
    assert reason.startswith("is damaged: fetch it again, or pack its folder again")
    pack.write_bytes(content[:-1])
    assert "was cut" in here("data", "check", "flowers.pack", code=1).stderr


def test_datasets_are_read_as_training_reads_them_and_what_is_not_there_is_said(here, flowers):
    assert "digits: 1,797 images, all readable" in here("data", "check", "digits").stderr
    checked = json.loads(here("data", "check", "digits", "--json").stdout)["checked"]
    assert (checked["train"], checked["val"], checked["unreadable"]) == (1257, 540, [])
    raw = flowers.parent / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(b"cut")
    assert "train-images-idx3-ubyte" in here("data", "check", "mnist", code=1).stderr
    assert "no cifar10 data in" in here("data", "check", "cifar10", code=1).stderr
    assert "did you mean `flowers`" in here("data", "check", "flowrs", code=3).stderr
    assert "no dataset is named `a/b`" in here("data", "check", "a/b", code=3).stderr
    (flowers / "val" / "class1").rename(flowers / "val" / "other")
    assert "only in train: class1" in here("data", "check", "flowers", code=1).stderr
