"""Datasets of MNIST's form: idx files, compressed or not, with torchvision's addresses and md5s."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from lsqctl.datasets.array_checks import split_problem
from lsqctl.datasets.in_memory import (
    PUBLISHED,
    ArraySplits,
    InMemoryDataset,
    content_md5,
    damaged_error,
    file_md5,
)
from lsqctl.errors import DataError

if TYPE_CHECKING:
    from torchvision.datasets import MNIST

_FILES = tuple(
    f"{split}-{kind}-ubyte"
    for split in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)
_MAX_FILE_BYTES = 100_000_000  # twice the largest file: what unpacks to more is none of them


@dataclass(frozen=True, slots=True)
class _IdxFile:
    path: Path
    data: bytes  # unpacked
    published: bool


class IdxDataset(InMemoryDataset):
    """Grey images and labels of two splits in four files, as torchvision's class downloads them.

    Each may lie there unpacked, or packed by another program. ``md5s`` are the published ones of
    the compressed files, training images and labels first, ``content_md5s`` those of the files
    unpacked, where they are known.
    """

    torchvision_class: ClassVar[str]
    md5s: ClassVar[tuple[str, ...]]
    content_md5s: ClassVar[tuple[str, ...]] = ()

    def read(self, data_dir: Path) -> ArraySplits | None:
        """Return pixels (N, 1, H, W) and labels (N) of both splits, each file's md5 checked."""
        files = self._read_files(data_dir)
        if files is None:
            return None
        arrays = [parse_idx(file.data, file.path) for file in files]
        identity = _identity(files)
        splits = []
        for images, labels, file in zip(arrays[::2], arrays[1::2], files[::2], strict=True):
            split = (images[:, None], labels.astype(np.int64))
            if identity != PUBLISHED and (problem := split_problem(split, self.info)):
                raise DataError(f"{file.path}: the split {problem}")
            splits.append(split)
        note = "md5 verified" if identity == PUBLISHED else f"unverified copy, {identity}"
        return splits[0], splits[1], note

    def identify(self, data_dir: Path) -> str | None:
        """Return the identity of the four files, unpacked."""
        files = self._read_files(data_dir)
        if files is None:
            return None
        identity = _identity(files)
        if identity != PUBLISHED:
            self.read(data_dir)
        return identity

    def is_complete(self, data_dir: Path) -> bool:
        """Return whether the published files are there, packed or not."""
        return self.identify(data_dir) == PUBLISHED

    def download(self, folder: Path) -> None:
        """Let torchvision download the files and check their md5s."""
        self._torchvision()(str(folder), download=True)

    def _torchvision(self) -> type[MNIST]:
        import torchvision.datasets

        dataset: type[MNIST] = getattr(torchvision.datasets, self.torchvision_class)
        return dataset

    def _read_files(self, data_dir: Path) -> list[_IdxFile] | None:
        folder = data_dir / self.info.paths[0]
        if not folder.is_dir():
            return None
        content_md5s = self.content_md5s or (None,) * len(_FILES)
        return [
            self._read_file(folder / name, md5, known_md5)
            for name, md5, known_md5 in zip(_FILES, self.md5s, content_md5s, strict=True)
        ]

    def _read_file(self, path: Path, md5: str, known_md5: str | None) -> _IdxFile:
        """Return a file, packed or not, of its own name or as ``…images.idx3-ubyte``."""
        for unpacked in (path, path.with_name(path.name.replace("-idx", ".idx"))):
            packed = unpacked.with_name(f"{unpacked.name}.gz")
            if packed.is_file():
                return _IdxFile(packed, _unpack(packed, md5, known_md5), published=True)
            if unpacked.is_file():
                data = _read_unpacked(unpacked, known_md5)
                return _IdxFile(unpacked, data, published=known_md5 is not None)
        raise DataError(f"{path}.gz is missing; `lsqctl data fetch {self.name}`")


def _unpack(path: Path, md5: str, known_md5: str | None) -> bytes:
    """Return what a published file holds, or one that was packed again; raises DataError."""
    actual_md5 = file_md5(path)
    if actual_md5 != md5 and known_md5 is None:
        raise damaged_error(path, actual_md5, md5)
    try:
        with gzip.open(path) as file:
            data = file.read(_MAX_FILE_BYTES)
    except (OSError, EOFError, zlib.error):
        raise damaged_error(path, actual_md5, md5) from None
    if actual_md5 != md5 and content_md5(data) != known_md5:
        raise damaged_error(path, actual_md5, md5)
    return data


def _read_unpacked(path: Path, known_md5: str | None) -> bytes:
    data = path.read_bytes()
    if known_md5 and (actual_md5 := content_md5(data)) != known_md5:
        raise damaged_error(path, actual_md5, known_md5)
    return data


def _identity(files: Sequence[_IdxFile]) -> str:
    if all(file.published for file in files):
        return PUBLISHED
    return f"sha256:{hashlib.sha256(b''.join(file.data for file in files)).hexdigest()}"


def parse_idx(data: bytes, path: Path) -> NDArray[np.uint8]:
    """Return the array of an idx file of bytes: magic 0x08 and rank, big-endian sizes, values."""
    rank = data[3] if len(data) > 4 and data[:3] == b"\0\0\x08" else 0
    sizes = range(4, 4 + 4 * rank, 4)
    shape = [int.from_bytes(data[offset : offset + 4], "big") for offset in sizes]
    if not rank or len(data) != 4 + 4 * rank + int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{path} is no idx file of bytes, or is cut short; fetch it again")
    return np.frombuffer(data[4 + 4 * rank :], dtype=np.uint8).reshape(shape)
