"""Which images were evaluated: told by their bytes, wherever they lie, or said to be unknown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from lsqctl.datasets import data_digest
from lsqctl.datasets.data_digest import (
    DataDigest,
    evaluation_keys,
    images_sha256,
    same_data,
    same_images,
)
from lsqctl.datasets.image_pack import SourceImage, read_pack, write_pack
from lsqctl.errors import DataError, Preempted
from lsqctl.recipe import DataSection
from lsqctl.training.dataset_loader import open_dataset

SECTION = DataSection(name="imagefolder", path="flowers", resize=8, crop=8)


def shade(path: Path, value: int) -> None:
    """Write an image: a bitmap, of one size whatever it shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, value, value)).save(path)


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    for value, name in enumerate(("train/a/0", "train/b/0", "val/a/0", "val/b/0", "val/b/1")):
        shade(tmp_path / "flowers" / f"{name}.bmp", value)
    return tmp_path / "flowers"


def digest(data_dir: Path, path: str = "flowers") -> str:
    return open_dataset(SECTION.model_copy(update={"path": path}), data_dir).digest


def without_bytes(text: str) -> str:
    """Return a digest as it was before the bytes were part of it."""
    return text[: -len(DataDigest.parse(text).images)]


def test_an_image_that_was_altered_at_its_size_is_another_where_it_is_evaluated(flowers):
    first, again = digest(flowers.parent), digest(flowers.parent)
    assert same_images(first, again) is same_data(first, again) is True
    shade(flowers / "val" / "b" / "1.bmp", 200)
    altered = digest(flowers.parent)
    assert same_images(first, altered) is same_data(first, altered) is False
    old, altered_old = without_bytes(first), without_bytes(altered)
    assert old == altered_old
    assert same_images(old, altered) is same_data(old, first) is same_images(old, old) is None


def test_other_training_images_are_other_data_and_the_same_evaluation(flowers):
    first = digest(flowers.parent)
    shade(flowers / "train" / "a" / "1.bmp", 7)
    more = digest(flowers.parent)
    assert same_images(first, more) is True
    assert same_data(first, more) is False


def test_what_else_is_named_or_labelled_is_not_the_same(flowers):
    old = without_bytes(digest(flowers.parent))
    (flowers / "val" / "b" / "1.bmp").rename(flowers / "val" / "b" / "2.bmp")
    renamed = digest(flowers.parent)
    assert same_images(old, renamed) is False
    (flowers / "val" / "b" / "2.bmp").rename(flowers / "val" / "a" / "2.bmp")
    assert same_images(renamed, digest(flowers.parent)) is False
    assert same_images("sha256:" + "1" * 64, "sha256:" + "2" * 32 + "1" * 32) is True
    assert same_images("other", renamed) is same_data("", renamed) is False


def packed(flowers: Path, file: Path) -> None:
    images = [
        SourceImage(split, f"{name}/{path.name}", label, path.read_bytes())
        for split in ("train", "val")
        for label, name in enumerate("ab")
        for path in sorted((flowers / split / name).iterdir())
    ]
    with file.open("wb") as target:
        write_pack(target, images, classes=["a", "b"], resize=8, encoder="none")


def test_packed_images_are_those_of_their_folder_where_they_hold_its_bytes(flowers):
    packed(flowers, flowers.parent / "flowers.pack")
    assert len(read_pack(flowers.parent / "flowers.pack").files["val"]) == 3
    folder, pack = digest(flowers.parent), digest(flowers.parent, "flowers.pack")
    assert same_images(folder, pack) is True
    shade(flowers / "val" / "a" / "0.bmp", 90)
    assert same_images(digest(flowers.parent), pack) is False


def test_runs_of_before_stand_with_the_bytes_that_are_listed_alike_or_alone_among_several(flowers):
    first = digest(flowers.parent)
    shade(flowers / "val" / "b" / "1.bmp", 200)
    second, old = digest(flowers.parent), without_bytes(first)
    keys = evaluation_keys([old, first])
    assert keys[old] == keys[first] == DataDigest.parse(first).images
    assert len({*evaluation_keys([old, first, second]).values()}) == 3
    assert evaluation_keys([old]) == {old: DataDigest.parse(old).listing}


def test_what_many_files_hold_is_read_once_while_they_stay_as_they_are(flowers, monkeypatch):
    data_dir, path = flowers.parent, flowers / "val" / "b" / "1.bmp"
    files = [(str(one), 0) for one in sorted((flowers / "val").rglob("*.bmp"))]
    reads: list[str] = []
    hash_file = data_digest._sha256
    monkeypatch.setattr(data_digest, "_sha256", lambda file: reads.append(file) or hash_file(file))
    small = images_sha256(files, data_dir)
    assert not (data_dir / data_digest.FOLDER).exists()
    monkeypatch.setattr(data_digest, "MAX_HASHED_BYTES", 10)
    monkeypatch.setattr(data_digest, "_SETTLED_SECONDS", -1)
    assert images_sha256(files, data_dir) == small
    reads.clear()
    assert images_sha256(files, data_dir) == small
    assert reads == []
    status = path.stat()
    shade(path, 200)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as rsync and tar set it
    assert images_sha256(files, data_dir) != small
    assert len(reads) == len(files)
    monkeypatch.setattr(data_digest, "_SETTLED_SECONDS", 3600)  # too young to be trusted
    shade(path, 100)
    fresh = images_sha256(files, data_dir)
    reads.clear()
    assert images_sha256(files, data_dir) == fresh
    assert len(reads) == len(files)


def test_hashing_many_files_ends_soon_after_it_is_asked_to(flowers, monkeypatch):
    (image, *_) = sorted((flowers / "val").rglob("*.bmp"))
    files = [(str(image), 0)] * 1000
    reads: list[str] = []
    hash_file = data_digest._sha256
    monkeypatch.setattr(data_digest, "_sha256", lambda file: reads.append(file) or hash_file(file))

    def stop():
        if reads:
            raise Preempted("stop")

    with pytest.raises(Preempted):
        images_sha256(files, flowers.parent, stop)
    assert 0 < len(reads) < len(files) / 10


def test_what_cannot_be_kept_or_is_damaged_is_read_again_and_a_file_that_is_gone_is_named(
    flowers, monkeypatch
):
    data_dir = flowers.parent
    files = [(str(one), 0) for one in sorted((flowers / "val").rglob("*.bmp"))]
    monkeypatch.setattr(data_digest, "MAX_HASHED_BYTES", 10)
    monkeypatch.setattr(data_digest, "_SETTLED_SECONDS", -1)
    (data_dir / data_digest.FOLDER).write_text("in the way")
    first = images_sha256(files, data_dir)
    (data_dir / data_digest.FOLDER).unlink()
    assert images_sha256(files, data_dir) == first
    (kept,) = (data_dir / data_digest.FOLDER).iterdir()
    kept.write_text("half")
    assert images_sha256(files, data_dir) == first
    Path(files[0][0]).unlink()
    with pytest.raises(DataError, match=rf"{files[0][0]} cannot be read: No such file"):
        images_sha256(files, data_dir)
