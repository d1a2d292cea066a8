"""CIFAR-10 and CIFAR-100 from their official binary form: an archive, or its unpacked folder.

Torchvision's archive of pickles is read too, by torchvision's own class, after its md5.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsqctl.errors import DataError
from lsqctl.training.digits import Arrays

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True, slots=True)
class Layout:
    """How one of the two sets lies on the disk; the md5 is published on the sets' home page."""

    folder: str
    archive: str
    md5: str
    train: tuple[str, ...]
    test: str
    label_bytes: int
    classes: int
    records_per_file: int  # in one training file
    python_archive: str
    python_md5: str


LAYOUTS = {
    "cifar10": Layout(
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        tuple(f"data_batch_{n}.bin" for n in range(1, 6)),
        "test_batch.bin",
        label_bytes=1,
        classes=10,
        records_per_file=10_000,
        python_archive="cifar-10-python.tar.gz",
        python_md5="c58f30108f718f92721af3b95e74349a",
    ),
    "cifar100": Layout(
        "cifar-100-binary",
        "cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        ("train.bin",),
        "test.bin",
        label_bytes=2,
        classes=100,
        records_per_file=50_000,
        python_archive="cifar-100-python.tar.gz",
        python_md5="eb9058c3a382ffc7106e4002c42a8d85",
    ),
}


def read_cifar(name: str, data_dir: Path) -> tuple[Arrays, Arrays, str] | None:
    """Return (pixels (N, 3, 32, 32), labels (N)) of both splits and a note on the source.

    None when nothing of the set lies in ``data_dir``. Raises DataError naming a damaged file.
    """
    layout = LAYOUTS[name]
    archive, python = data_dir / layout.archive, data_dir / layout.python_archive
    if archive.is_file():
        check_md5(archive, layout.md5)
        with tarfile.open(archive) as tar:
            return *_parse_splits(
                layout, lambda file: _read_member(tar, layout, file)
            ), "md5 verified"
    if (data_dir / layout.folder).is_dir():
        files = {
            file: _read_file(data_dir / layout.folder / file) for file in _binary_files(layout)
        }
        digest = hashlib.sha256(b"".join(files.values())).hexdigest()
        return *_parse_splits(layout, files.__getitem__), f"unverified copy, sha256 {digest}"
    if python.is_file():
        check_md5(python, layout.python_md5)
        return *_read_pickled(name, data_dir), "md5 verified"
    return None


def check_md5(path: Path, md5: str) -> None:
    """Raise DataError unless the file has the published md5."""
    with path.open("rb") as file:
        actual_md5 = hashlib.file_digest(
            file, lambda: hashlib.md5(usedforsecurity=False)
        ).hexdigest()
    if actual_md5 != md5:
        raise DataError(
            f"{path} is damaged or partial: md5 {actual_md5}, published is {md5}; delete it "
            "and fetch it again"
        )


def _binary_files(layout: Layout) -> tuple[str, ...]:
    return (*layout.train, layout.test)


def _parse_splits(layout: Layout, read: Callable[[str], bytes]) -> tuple[Arrays, Arrays]:
    train = [
        _parse_records(layout, read(file), file, layout.records_per_file) for file in layout.train
    ]
    test = _parse_records(layout, read(layout.test), layout.test, 10_000)
    pixels = np.concatenate([arrays[0] for arrays in train])
    return (pixels, np.concatenate([arrays[1] for arrays in train])), test


def _parse_records(layout: Layout, data: bytes, file: str, count: int) -> Arrays:
    """Return the images of one file: label bytes (the last is the fine one), then planes."""
    width = layout.label_bytes + _PIXELS
    if len(data) != count * width:
        raise DataError(
            f"{layout.folder}/{file} has {len(data)} bytes instead of {count * width}; "
            "fetch the dataset again"
        )
    rows: NDArray[np.uint8] = np.frombuffer(data, dtype=np.uint8).reshape(count, width)
    labels = rows[:, layout.label_bytes - 1].astype(np.int64)
    if labels.max() >= layout.classes:
        raise DataError(
            f"{layout.folder}/{file} has label {labels.max()} in a record; "
            f"there are {layout.classes} classes: fetch the dataset again"
        )
    return rows[:, layout.label_bytes :].reshape(count, 3, 32, 32), labels


def _read_member(tar: tarfile.TarFile, layout: Layout, file: str) -> bytes:
    member = tar.extractfile(f"{layout.folder}/{file}")
    if member is None:
        raise DataError(f"{layout.archive} holds no {layout.folder}/{file}")
    return member.read()


def _read_file(path: Path) -> bytes:
    if not path.is_file():
        raise DataError(f"{path} is missing; fetch the dataset again")
    return path.read_bytes()


def _read_pickled(name: str, data_dir: Path) -> tuple[Arrays, Arrays]:
    """Return both splits of torchvision's form; its class checks each file's md5 before reading."""
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset_class = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    splits = [dataset_class(str(data_dir), train=train, download=True) for train in (True, False)]
    train, test = (
        (np.ascontiguousarray(split.data.transpose(0, 3, 1, 2)), np.array(split.targets, np.int64))
        for split in splits
    )
    return train, test
