"""Datasets: fixed splits, exact sizes, and a clear word for what is missing or damaged."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lsqctl.datasets import DATASETS, image_files
from lsqctl.datasets.digits import read_digits
from lsqctl.datasets.image_folders import list_images
from lsqctl.errors import DataError, Preempted
from lsqctl.events import Checkpoint
from lsqctl.recipe import DataSection
from lsqctl.training.beginning import open_pipeline
from lsqctl.training.data_pipeline import DataPipeline
from lsqctl.training.dataset_loader import open_dataset
from lsqctl.training.restore import reevaluate
from lsqctl.training.runtime import ExecutionContext

from .attempts import run
from .conftest import tiny


def feed(**data):
    recipe = tiny(data=data)
    return DataPipeline(open_dataset(recipe.data, Path()), recipe, torch.device("cpu"), channels=1)


def test_an_epoch_shows_every_image_once_and_resumes_at_any_batch():
    whole = list(feed(pad=0, batch_size=100).train_batches(3))
    assert torch.cat([labels for _, labels in whole]).bincount().tolist() == (
        np.bincount(read_digits()[0][1]).tolist()
    )
    rest = list(feed(pad=0, batch_size=100).train_batches(3, start=5))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[5:], rest, strict=True))


def test_an_image_looks_the_same_whatever_the_batch_size():
    small, large = (
        torch.cat([images for images, _ in feed(pad=1, batch_size=size).train_batches(1)])
        for size in (57, 419)
    )
    assert torch.equal(small, large)


def test_a_last_batch_of_a_single_image_is_left_out():
    assert feed(batch_size=628).steps_per_epoch == 2
    assert [len(labels) for _, labels in feed(batch_size=628).train_batches(0)] == [628, 628]


def test_calibration_images_are_shuffled_training_images_of_every_class():
    images = torch.cat(list(feed().calibration_batches(512)))
    assert images.shape == (512, 1, 8, 8)
    assert torch.equal(images, torch.cat(list(feed(batch_size=7).calibration_batches(512))))
    assert not torch.equal(images, next(feed(batch_size=512).train_batches(0))[0])


def test_grey_images_become_three_equal_channels_for_nets_that_take_colour():
    recipe = tiny()
    colour = DataPipeline(
        open_dataset(recipe.data, Path()), recipe, torch.device("cpu"), channels=3
    )
    images, _ = next(colour.eval_batches())
    assert images.shape[1] == 3
    assert torch.equal(images[:, 0], images[:, 2])


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_missing_data_says_where_it_looked_and_what_to_do(tmp_path, name):
    with pytest.raises(DataError) as error:
        open_dataset(DataSection(name=name), tmp_path)
    way = f"{name}/val" if DATASETS[name].is_image_folder else f"lsqctl data fetch {name}"
    for part in (str(tmp_path), DATASETS[name].paths[0], way, "LSQCTL_DATA"):
        assert part in str(error.value)


def fake_cifar10(folder, *, label=9, cut=0):
    folder.mkdir(parents=True)
    rows = np.zeros((10_000, 3073), np.uint8)
    rows[:, 0] = np.arange(10_000) % 10
    rows[5, 1:] = np.arange(3072) % 256
    for name in (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"):
        rows[9, 0] = label
        rows.tofile(folder / name)
    if cut:
        path = folder / "data_batch_3.bin"
        path.write_bytes(path.read_bytes()[:-cut])


def test_the_binary_cifar10_is_read_plane_by_plane_and_called_unverified(tmp_path):
    fake_cifar10(tmp_path / "cifar-10-batches-bin")
    found = open_dataset(DataSection(name="cifar10"), tmp_path)
    assert (len(found.train), len(found.evaluation), found.eval_split) == (50_000, 10_000, "test")
    pixels, labels = next(found.train.eval_batches([np.array([5, 10_007])]))
    assert pixels.shape == (2, 3, 32, 32)
    assert pixels[0].flatten().tolist() == [i % 256 for i in range(3072)]
    assert labels.tolist() == [5, 7]
    assert "unverified copy, sha256" in found.notes[0]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"cut": 1}, r"data_batch_3\.bin has 30729999 bytes instead of 30730000"),
        ({"label": 10}, "label 10"),
    ],
)
def test_a_damaged_cifar10_is_refused_and_names_its_file(tmp_path, fault, message):
    fake_cifar10(tmp_path / "cifar-10-batches-bin", **fault)
    with pytest.raises(DataError, match=message):
        DATASETS.load("cifar10")("cifar10").read(tmp_path)


@pytest.mark.parametrize("name", ["cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"])
def test_an_archive_of_other_bytes_is_refused_before_it_is_opened(tmp_path, name):
    (tmp_path / name).write_bytes(b"half a download")
    with pytest.raises(DataError, match=f"{name} is damaged or partial: md5"):
        DATASETS.load("cifar10")("cifar10").read(tmp_path)


def image_folder(root, *, classes=("cat", "dog")):
    from PIL import Image

    draw = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for name in classes:
            folder = root / "imagefolder" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")


def test_a_run_that_is_asked_to_stop_hashes_no_folder_to_its_end(tmp_path):
    image_folder(tmp_path)
    data = DataSection(name="imagefolder", resize=24, crop=16)
    recipe = tiny().model_copy(update={"data": data})
    context = ExecutionContext(run_dir=tmp_path, data_dir=tmp_path, stop=lambda: True)
    with pytest.raises(Preempted):
        open_pipeline(recipe, context, torch.device("cpu"))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than there are cores
@pytest.mark.parametrize("crop", ["random", "random_resized"])
@pytest.mark.parametrize("mode", ["shorter", "square"])
def test_folder_images_are_the_same_for_any_number_of_processes(tmp_path, crop, mode):
    image_folder(tmp_path)
    data = DataSection(
        name="imagefolder", resize=24, crop=16, flip=True, train_crop=crop, resize_mode=mode
    )
    batches = [np.array([4, 1]), np.array([0, 5, 2])]
    seen = []
    for workers in (0, 2):
        found = open_dataset(data, tmp_path, num_workers=workers)
        before = torch.get_rng_state()
        seen.append(list(found.train.train_batches(batches, seed=1, epoch=2)))
        assert torch.equal(before, torch.get_rng_state())
    assert (found.num_classes, found.image_size, found.eval_split) == (2, 16, "val")
    for (one, _), (other, _) in zip(*seen, strict=True):
        assert one.shape[1:] == (3, 16, 16)
        assert one.dtype == torch.uint8
        assert torch.equal(one, other)
    assert seen[0][1][1].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("changes", "recorded"),
    [
        ({}, "resize shorter 24 bilinear antialias, centre crop 16; /255, mean 0.485 "),
        ({"resize_mode": "square"}, "resize square 24 "),
        ({"interpolation": "bicubic"}, " 24 bicubic antialias"),
        ({"normalize": "none"}, "/255, mean 0.0 0.0 0.0, std 1.0 1.0 1.0"),
    ],
)
def test_what_evaluation_does_to_an_image_is_recorded(tmp_path, changes, recorded):
    image_folder(tmp_path)
    data = DataSection(**{"name": "imagefolder", "resize": 24, "crop": 16} | changes)
    assert recorded in open_dataset(data, tmp_path).preprocessing


def test_an_empty_class_and_a_broken_image_are_named(tmp_path):
    image_folder(tmp_path)
    data = DataSection(name="imagefolder", resize=24, crop=16)
    broken = tmp_path / "imagefolder" / "val" / "dog" / "0.png"
    broken.write_bytes(b"not an image")
    found = open_dataset(data, tmp_path)
    with pytest.raises(DataError, match=r"dog/0\.png does not open"):
        list(found.evaluation.eval_batches([np.array([2])]))
    (tmp_path / "imagefolder" / "train" / "empty").mkdir()
    (tmp_path / "imagefolder" / "train" / "empty" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"train/empty has no image: every class needs some"):
        open_dataset(data, tmp_path)


def test_a_checkpoint_is_not_measured_on_images_that_were_altered_at_their_size(tmp_path, job):
    from PIL import Image

    context = job()
    for number, name in enumerate(("train/a/0", "train/b/0", "val/a/0", "val/b/0")):
        path = context.data_dir / "imagefolder" / f"{name}.bmp"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    data = {"name": "imagefolder", "resize": 8, "crop": 8, "batch_size": 2, "eval_batch_size": 2}
    recipe = tiny(data=data, train={"epochs": 0})
    events = run(recipe, context)
    result = events[-1]
    (folder,) = {one.directory for one in events if isinstance(one, Checkpoint)}
    again = reevaluate(recipe, folder, context, data_digest=result.data_digest)
    assert again.hits == result.evaluations[0].hits
    Image.new("RGB", (8, 8), (200, 0, 0)).save(path)
    with pytest.raises(DataError, match="is not the dataset of the training"):
        reevaluate(recipe, folder, context, data_digest=result.data_digest)


def test_a_pipe_in_a_class_is_passed_over_and_a_loop_of_links_followed_once_and_both_are_said(
    tmp_path,
):
    image_folder(tmp_path)
    train = tmp_path / "imagefolder" / "train"
    data = DataSection(name="imagefolder", resize=24, crop=16)
    before = open_dataset(data, tmp_path)
    os.mkfifo(train / "cat" / "0a.png")
    (train / "cat" / "again").symlink_to(train)
    (train / "dog" / "up").symlink_to("..")
    (train / "dog" / "more").mkdir()
    (train / "dog" / "more" / "link.png").symlink_to(train / "dog" / "0.png")
    with_traps = open_dataset(data, tmp_path)
    assert len(with_traps.train) == len(before.train) + 1
    assert with_traps.train.files[:3] == before.train.files[:3]
    said = "\n".join(with_traps.notes)
    assert f"passed over 1 image name (no regular file), first {train}/cat/0a.png" in said
    assert f"2 folders (listed already, through a link), first {train}/cat/again" in said


def test_images_are_listed_as_torchvision_lists_them(tmp_path):
    from torchvision.datasets import ImageFolder

    image_folder(tmp_path, classes=("cat", "Dog", "a b", "x"))
    train = tmp_path / "imagefolder" / "train"
    for name in ("z", "b", "b/z", "b.c"):
        (train / "cat" / name).mkdir()
        for number in (2, 10, 1):
            (train / "cat" / name / f"{number}.PNG").write_bytes(b"")
    files, notes = list_images(train)
    assert files == ImageFolder(str(train), allow_empty=True).samples
    assert notes == ()


def test_an_image_of_a_format_that_was_not_asked_for_reaches_no_decoder(tmp_path, monkeypatch):
    """A recorder of calls stands in Ghostscript's place, the first on the path."""
    image_folder(tmp_path)
    called = tmp_path / "called"
    fake = tmp_path / "bin" / "gs"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch {called}\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    eps = tmp_path / "imagefolder" / "val" / "dog" / "0.png"
    eps.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    data = DataSection(name="imagefolder", resize=24, crop=16)
    with pytest.raises(DataError, match=r"dog/0\.png does not open as an image \(JPEG, PNG"):
        list(open_dataset(data, tmp_path).evaluation.eval_batches([np.array([2])]))
    assert not called.exists()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda png: b"P5 60000 60000 255\n", "could be decompression bomb"),
        (lambda png: png[: len(png) // 2], "does not open as an image"),
        (lambda png: png.replace(b"IDAT", b"IDAU"), "does not open as an image"),
        (lambda png: b"P5 1 30000 255\n" + bytes(30_000), "is 1x30000, and would have 17,280,000"),
    ],
)
def test_whatever_is_wrong_with_an_image_its_file_is_named(
    tmp_path, monkeypatch, workers, damage, said
):
    monkeypatch.setattr(image_files, "MAX_IMAGE_PIXELS", 10_000_000)
    image_folder(tmp_path)
    path = tmp_path / "imagefolder" / "val" / "dog" / "0.png"
    path.write_bytes(damage(path.read_bytes()))
    data = DataSection(name="imagefolder", resize=24, crop=16)
    found = open_dataset(data, tmp_path, num_workers=workers)
    with pytest.raises(DataError, match=rf"dog/0\.png .*{said}") as error:
        list(found.evaluation.eval_batches([np.array([2])]))
    assert "\n" not in str(error.value)


def test_splits_of_different_classes_are_refused(tmp_path):
    image_folder(tmp_path)
    (tmp_path / "imagefolder" / "val" / "dog").rename(tmp_path / "imagefolder" / "val" / "fox")
    with pytest.raises(DataError, match="they should be the same"):
        open_dataset(DataSection(name="imagefolder"), tmp_path)


DATA = os.environ.get("LSQCTL_DATA")
PUBLIC = "cifar-resnet/resnet20-12fca82f.th"


@pytest.mark.skipif(
    not DATA or not (Path(DATA) / PUBLIC).is_file(),
    reason=f"LSQCTL_DATA names no folder with CIFAR-10 and {PUBLIC}",
)
def test_the_public_resnet20_gets_exactly_9173_of_cifar10(tmp_path):
    from lsqctl.recipe import Recipe
    from lsqctl.training import ExecutionContext, finetune

    recipe = Recipe.model_validate(
        {
            "name": "x",
            "model": {"name": "cifar_resnet20", "weights": PUBLIC},
            "data": {"name": "cifar10", "normalize": "imagenet"},
            "train": {"epochs": 0},
        }
    )
    job = ExecutionContext(tmp_path, Path(DATA), inputs={"model.weights": Path(DATA) / PUBLIC})
    assert list(finetune(recipe, job))[-1].evaluations[0].n_correct == 9173
