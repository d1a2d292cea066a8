"""Datasets of CIFAR's form: the official binary archive, or its unpacked folder.

Torchvision's archive of pickles is read too, by torchvision's own class, after its md5.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from lsqctl.datasets.in_memory import Arrays, ArraySplits, InMemoryDataset, check_md5
from lsqctl.errors import DataError

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

_PIXELS = 3 * 32 * 32
_TEST_RECORDS = 10_000


class CifarDataset(InMemoryDataset):
    """Records of label bytes, of which the last counts, and three planes of 32x32 bytes.

    The info's ``paths`` are the archive, the folder that it unpacks to, and torchvision's archive;
    the md5 of both archives is published on the home page of the sets.
    """

    md5: ClassVar[str]
    python_md5: ClassVar[str]
    train_files: ClassVar[tuple[str, ...]]
    test_file: ClassVar[str]
    label_bytes: ClassVar[int]
    records_per_file: ClassVar[int]  # in one training file
    torchvision_class: ClassVar[str]

    def read(self, data_dir: Path) -> ArraySplits | None:
        """Return pixels (N, 3, 32, 32) and labels (N) of both splits."""
        archive, folder, python_archive = (data_dir / path for path in self.info.paths)
        if archive.is_file():
            check_md5(archive, self.md5)
            with tarfile.open(archive) as tar:
                splits = self._parse_splits(lambda file: self._read_member(tar, file))
            return *splits, "md5 verified"
        if folder.is_dir():
            names = (*self.train_files, self.test_file)
            files = {name: _read_file(folder / name) for name in names}
            digest = hashlib.sha256(b"".join(files.values())).hexdigest()
            note = f"unverified copy, sha256 {digest}"
            return *self._parse_splits(files.__getitem__), note
        if python_archive.is_file():
            check_md5(python_archive, self.python_md5)
            return *self._read_pickled(data_dir), "md5 verified"
        return None

    def download(self, folder: Path) -> None:
        """Download the binary archive, which lies beside torchvision's; its md5 is checked."""
        from torchvision.datasets.utils import download_url

        archive, _, python_archive = self.info.paths
        url = self._torchvision().url.replace(python_archive, archive)
        download_url(url, str(folder), archive, self.md5)

    def is_complete(self, data_dir: Path) -> bool:
        """Return whether the binary archive is there, undamaged."""
        archive = data_dir / self.info.paths[0]
        if not archive.is_file():
            return False
        check_md5(archive, self.md5)
        return True

    def _torchvision(self) -> type[CIFAR10]:
        import torchvision.datasets

        dataset: type[CIFAR10] = getattr(torchvision.datasets, self.torchvision_class)
        return dataset

    def _parse_splits(self, read: Callable[[str], bytes]) -> tuple[Arrays, Arrays]:
        train = [
            self._parse_records(read(file), file, self.records_per_file)
            for file in self.train_files
        ]
        test = self._parse_records(read(self.test_file), self.test_file, _TEST_RECORDS)
        pixels = np.concatenate([arrays[0] for arrays in train])
        return (pixels, np.concatenate([arrays[1] for arrays in train])), test

    def _parse_records(self, data: bytes, file: str, count: int) -> Arrays:
        """Return the images of one file: label bytes (the last is the fine one), then planes."""
        width = self.label_bytes + _PIXELS
        path = f"{self.info.paths[1]}/{file}"
        if len(data) != count * width:
            raise DataError(
                f"{path} has {len(data)} bytes instead of {count * width}; fetch the dataset again"
            )
        rows: NDArray[np.uint8] = np.frombuffer(data, dtype=np.uint8).reshape(count, width)
        labels = rows[:, self.label_bytes - 1].astype(np.int64)
        if labels.max() >= (self.info.classes or 0):
            raise DataError(
                f"{path} has label {labels.max()} in a record; "
                f"there are {self.info.classes} classes: fetch the dataset again"
            )
        return rows[:, self.label_bytes :].reshape(count, 3, 32, 32), labels

    def _read_member(self, tar: tarfile.TarFile, file: str) -> bytes:
        archive, folder, _ = self.info.paths
        member = tar.extractfile(f"{folder}/{file}")
        if member is None:
            raise DataError(f"{archive} holds no {folder}/{file}")
        return member.read()

    def _read_pickled(self, data_dir: Path) -> tuple[Arrays, Arrays]:
        """Return both splits by torchvision's class, which checks each file's md5 first."""
        splits = [
            self._torchvision()(str(data_dir), train=train, download=True)
            for train in (True, False)
        ]
        train, test = (
            (
                np.ascontiguousarray(split.data.transpose(0, 3, 1, 2)),
                np.array(split.targets, np.int64),
            )
            for split in splits
        )
        return train, test


def _read_file(path: Path) -> bytes:
    if not path.is_file():
        raise DataError(f"{path} is missing; fetch the dataset again")
    return path.read_bytes()
