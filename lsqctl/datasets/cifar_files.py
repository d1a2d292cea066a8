"""Datasets of CIFAR's form: the official binary archive, or its unpacked folder.

An archive that was packed again is known by what it holds. Torchvision's archive of pickles is read
too, by torchvision's own class, after its md5.
"""

from __future__ import annotations

import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from lsqctl.datasets.in_memory import (
    PUBLISHED,
    Arrays,
    ArraySplits,
    InMemoryDataset,
    check_md5,
    content_md5,
    damaged_error,
    file_md5,
)
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
    content_md5s: ClassVar[Mapping[str, str]] = {}  # of the unpacked files, where they are known

    def read(self, data_dir: Path) -> ArraySplits | None:
        """Return pixels (N, 3, 32, 32) and labels (N) of both splits."""
        archive, folder, python_archive = (data_dir / path for path in self.info.paths)
        if archive.is_file():
            files = self._read_archive(archive)
            return *self._parse_splits(files), "md5 verified"
        if folder.is_dir():
            files = self._read_folder(folder)
            identity = self._identity(files)
            note = "md5 verified" if identity == PUBLISHED else f"unverified copy, {identity}"
            return *self._parse_splits(files), note
        if python_archive.is_file():
            check_md5(python_archive, self.python_md5)
            return *self._read_pickled(data_dir), "md5 verified"
        return None

    def identify(self, data_dir: Path) -> str | None:
        """Return the identity of the files; an archive as published is not unpacked for it."""
        archive, folder, python_archive = (data_dir / path for path in self.info.paths)
        if archive.is_file():
            if file_md5(archive) != self.md5:
                self._read_archive(archive)
            return PUBLISHED
        if folder.is_dir():
            files = self._read_folder(folder)
            self._parse_splits(files)
            return self._identity(files)
        if python_archive.is_file():
            check_md5(python_archive, self.python_md5)
            return PUBLISHED
        return None

    def download(self, folder: Path) -> None:
        """Download the binary archive, which lies beside torchvision's; its md5 is checked."""
        from torchvision.datasets.utils import download_url

        archive, _, python_archive = self.info.paths
        url = self._torchvision().url.replace(python_archive, archive)
        download_url(url, str(folder), archive, self.md5)

    def is_complete(self, data_dir: Path) -> bool:
        """Return whether the binary archive is there, undamaged."""
        return (data_dir / self.info.paths[0]).is_file() and self.identify(data_dir) == PUBLISHED

    def _torchvision(self) -> type[CIFAR10]:
        import torchvision.datasets

        dataset: type[CIFAR10] = getattr(torchvision.datasets, self.torchvision_class)
        return dataset

    @property
    def _file_names(self) -> tuple[str, ...]:
        return *self.train_files, self.test_file

    def _file_bytes(self, name: str) -> int:
        count = _TEST_RECORDS if name == self.test_file else self.records_per_file
        return count * (self.label_bytes + _PIXELS)

    def _identity(self, files: Mapping[str, bytes]) -> str:
        if {name: content_md5(data) for name, data in files.items()} == self.content_md5s:
            return PUBLISHED
        return f"sha256:{hashlib.sha256(b''.join(files.values())).hexdigest()}"

    def _parse_splits(self, files: Mapping[str, bytes]) -> tuple[Arrays, Arrays]:
        train = [
            self._parse_records(files[name], name, self.records_per_file)
            for name in self.train_files
        ]
        test = self._parse_records(files[self.test_file], self.test_file, _TEST_RECORDS)
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

    def _read_folder(self, folder: Path) -> dict[str, bytes]:
        return {name: _read_file(folder / name) for name in self._file_names}

    def _read_archive(self, archive: Path) -> dict[str, bytes]:
        """Return the files of an archive that is the published one, or holds the published files.

        Raises DataError for any other.
        """
        actual_md5 = file_md5(archive)
        if actual_md5 != self.md5 and not self.content_md5s:
            raise damaged_error(archive, actual_md5, self.md5)
        try:
            with tarfile.open(archive) as tar:
                files = self._read_members(tar)
        except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError):
            raise damaged_error(archive, actual_md5, self.md5) from None
        if actual_md5 != self.md5 and self._identity(files) != PUBLISHED:
            raise damaged_error(archive, actual_md5, self.md5)
        return files

    def _read_members(self, tar: tarfile.TarFile) -> dict[str, bytes]:
        """Return the files, in the order of their names here; what is larger is not read."""
        folder = self.info.paths[1]
        wanted = {f"{folder}/{name}": name for name in self._file_names}
        found = {}
        for member in tar:
            name = wanted.get(member.name.removeprefix("./"))
            if member.size > max(map(self._file_bytes, self._file_names)):
                raise tarfile.ReadError(f"{member.name} is too large")
            if name and member.isreg() and (file := tar.extractfile(member)):
                found[name] = file.read()
            if len(found) == len(wanted):
                return {name: found[name] for name in self._file_names}
        raise tarfile.ReadError(f"it holds not all of {', '.join(wanted)}")

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
