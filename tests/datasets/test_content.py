"""Files of datasets are known by what they hold, however they are packed; anything else is said."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import tarfile
from pathlib import Path

import numpy as np
import pytest

from lsqctl.datasets import DATASETS, cifar_files
from lsqctl.datasets.cifar10 import Cifar10
from lsqctl.datasets.identity import dataset_identity
from lsqctl.datasets.idx_files import _FILES
from lsqctl.datasets.in_memory import PUBLISHED
from lsqctl.datasets.mnist import Mnist
from lsqctl.errors import DataError


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def repack(data: bytes) -> bytes:
    """Return another compressed file of the same content."""
    return gzip.compress(gzip.decompress(data), 1, mtime=7)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_the_published_digests_are_those_that_torchvision_has(name):
    dataset = DATASETS.load(name)(name)
    files = [f"{file}.gz" for file in _FILES]
    assert dataset._torchvision().resources == list(zip(files, dataset.md5s, strict=True))
    assert len(dataset.content_md5s) in (0, len(files))


@pytest.fixture
def idx_files(tmp_path, monkeypatch) -> dict[Path, bytes]:
    """Return small files in the place of MNIST's, by their paths, which are published and known."""
    draw = np.random.default_rng(0)
    contents = []
    for number, count in enumerate((20, 20, 10, 10)):
        shape = (count,) if number % 2 else (count, 28, 28)
        values = draw.integers(0, 10, shape, dtype=np.uint8)
        sizes = b"".join(size.to_bytes(4, "big") for size in shape)
        contents.append(bytes([0, 0, 8, len(shape)]) + sizes + values.tobytes())
    packed = [gzip.compress(content, mtime=0) for content in contents]
    monkeypatch.setattr(Mnist, "md5s", tuple(map(md5, packed)))
    monkeypatch.setattr(Mnist, "content_md5s", tuple(map(md5, contents)))
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    return {folder / f"{name}.gz": data for name, data in zip(_FILES, packed, strict=True)}


def unpacked(path: Path) -> Path:
    return path.with_suffix("")


def dotted(path: Path) -> Path:
    return path.with_name(path.name.replace("-idx", ".idx"))


FORMS = {
    "as published": lambda path, data: path.write_bytes(data),
    "unpacked": lambda path, data: unpacked(path).write_bytes(gzip.decompress(data)),
    "packed again": lambda path, data: path.write_bytes(repack(data)),
    "of the other name": lambda path, data: dotted(path).write_bytes(data),
    "unpacked, of the other name": lambda path, data: dotted(unpacked(path)).write_bytes(
        gzip.decompress(data)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_idx_files_are_known_by_their_content(tmp_path, idx_files, form):
    for path, data in idx_files.items():
        FORMS[form](path, data)
    (pixels, labels), (test_pixels, _), note = Mnist("mnist").read(tmp_path)
    assert (pixels.shape, labels.shape) == ((20, 1, 28, 28), (20,))
    assert test_pixels.shape == (10, 1, 28, 28)
    assert note == "md5 verified"
    assert dataset_identity("mnist", tmp_path) == PUBLISHED


@pytest.mark.parametrize("form", ["unpacked", "packed again"])
def test_an_idx_file_of_other_content_is_named(tmp_path, idx_files, form):
    for number, (path, data) in enumerate(idx_files.items()):
        content = gzip.decompress(data)
        FORMS[form](path, gzip.compress(content[:-1] + b"\0") if number == 1 else data)
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte(\.gz)? is damaged or partial"):
        dataset_identity("mnist", tmp_path)


def test_an_idx_file_that_unpacks_to_gigabytes_is_not_read_to_its_end(
    tmp_path, idx_files, monkeypatch
):
    monkeypatch.setattr("lsqctl.datasets.idx_files._MAX_FILE_BYTES", 1_000)
    for path, data in idx_files.items():
        path.write_bytes(repack(data))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is damaged"):
        dataset_identity("mnist", tmp_path)


def test_files_of_which_no_digest_is_known_are_an_unverified_copy_with_one(
    tmp_path, idx_files, monkeypatch
):
    monkeypatch.setattr(Mnist, "content_md5s", ())
    for path, data in idx_files.items():
        FORMS["unpacked"](path, data)
    identity = dataset_identity("mnist", tmp_path)
    assert identity.startswith("sha256:")
    assert Mnist("mnist").read(tmp_path)[2] == f"unverified copy, {identity}"
    assert not Mnist("mnist").is_complete(tmp_path)
    labels = unpacked(list(idx_files)[3])
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x0a")
    with pytest.raises(DataError, match="must have labels of 0 to 9, as it declares, has"):
        dataset_identity("mnist", tmp_path)


@pytest.fixture
def cifar_contents(monkeypatch) -> dict[str, bytes]:
    """Return files of ten images in the place of CIFAR-10's, whose digests are known."""
    monkeypatch.setattr(Cifar10, "records_per_file", 10)
    monkeypatch.setattr(cifar_files, "_TEST_RECORDS", 10)
    draw = np.random.default_rng(0)
    contents = {}
    for name in (*Cifar10.train_files, Cifar10.test_file):
        rows = draw.integers(0, 256, (10, 3073), dtype=np.uint8)
        rows[:, 0] = np.arange(10)
        contents[name] = rows.tobytes()
    monkeypatch.setattr(
        Cifar10, "content_md5s", {name: md5(data) for name, data in contents.items()}
    )
    return contents


def test_a_link_in_an_archive_stands_for_no_file(tmp_path, cifar_contents):
    archive = write_archive(tmp_path / "cifar-10-binary.tar.gz", cifar_contents)
    with tarfile.open(tmp_path / "linked.tar.gz", "w:gz") as linked, tarfile.open(archive) as tar:
        for member in tar:
            renamed = member.replace(name=member.name.replace("test_batch", "other"))
            linked.addfile(renamed, tar.extractfile(member))
        link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "other.bin"
        linked.addfile(link)
    (tmp_path / "linked.tar.gz").rename(archive)
    with pytest.raises(DataError, match="is damaged or partial: md5"):
        dataset_identity("cifar10", tmp_path)


def write_archive(path: Path, contents: dict[str, bytes], *, prefix: str = "") -> Path:
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for name, data in [("readme.html", b"CIFAR"), *reversed(contents.items())]:
            member = tarfile.TarInfo(f"{prefix}cifar-10-batches-bin/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_an_archive_that_was_packed_again_is_known_by_its_content(
    tmp_path, cifar_contents, prefix, pack
):
    archive = write_archive(tmp_path / "cifar-10-binary.tar.gz", cifar_contents, prefix=prefix)
    archive.write_bytes(pack(gzip.decompress(archive.read_bytes())))
    train, test, note = Cifar10("cifar10").read(tmp_path)
    assert (len(train[0]), len(test[0]), note) == (50, 10, "md5 verified")
    assert train[1].tolist() == list(range(10)) * 5
    assert dataset_identity("cifar10", tmp_path) == PUBLISHED
    assert Cifar10("cifar10").is_complete(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"data_batch_2.bin": bytes(30_730)},
        {"data_batch_2.bin": None},
        {"readme.html": bytes(40_000)},
    ],
)
def test_an_archive_of_other_content_is_refused(tmp_path, cifar_contents, change):
    contents = {k: v for k, v in (cifar_contents | change).items() if v is not None}
    write_archive(tmp_path / "cifar-10-binary.tar.gz", contents)
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz is damaged or partial: md5"):
        dataset_identity("cifar10", tmp_path)


def test_an_unpacked_folder_is_verified_by_its_content_and_any_other_called_unverified(
    tmp_path, cifar_contents
):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, data in cifar_contents.items():
        (folder / name).write_bytes(data)
    assert Cifar10("cifar10").read(tmp_path)[2] == "md5 verified"
    assert dataset_identity("cifar10", tmp_path) == PUBLISHED
    changed = folder / "test_batch.bin"
    changed.write_bytes(changed.read_bytes()[:-1] + b"\0")
    identity = dataset_identity("cifar10", tmp_path)
    assert identity.startswith("sha256:")
    assert Cifar10("cifar10").read(tmp_path)[2] == f"unverified copy, {identity}"
