"""Datasets small enough for memory: what each must be able to do."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsqctl.datasets import DATASETS, DatasetInfo
from lsqctl.errors import DataError

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]  # pixels (N, C, H, W), labels (N)
ArraySplits = tuple[Arrays, Arrays, str]  # training, test, a note on the source

PUBLISHED = "as published"  # the identity of a set whose every byte is that of its publishers


class InMemoryDataset(ABC):
    """One dataset that is read whole."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.info: DatasetInfo = DATASETS.find(name)

    @abstractmethod
    def read(self, data_dir: Path) -> ArraySplits | None:
        """Return both splits; None when nothing of the set lies in ``data_dir``.

        Raises DataError naming a damaged file.
        """

    def identify(self, data_dir: Path) -> str | None:
        """Return what names the content of the set: ``PUBLISHED``, or a sha256.

        The same content gives the same answer however it is packed. None when nothing of the set
        lies in ``data_dir``. Raises DataError as ``read`` does, which this does unless a subclass
        knows a shorter way.
        """
        splits = self.read(data_dir)
        if splits is None:
            return None
        hasher = hashlib.sha256()
        for pixels, labels in splits[:2]:
            hasher.update(f"{pixels.shape}".encode())
            hasher.update(np.ascontiguousarray(pixels).data)
            hasher.update(np.ascontiguousarray(labels).data)
        return f"sha256:{hasher.hexdigest()}"

    def download(self, folder: Path) -> None:
        """Make the first of the info's ``paths`` in ``folder``.

        Raises OSError or RuntimeError when a file does not come or is not as published.
        """
        raise OSError("there is no address to download it from")

    def is_complete(self, data_dir: Path) -> bool:
        """Return whether what ``download`` makes is there already; raises DataError if damaged."""
        return self.read(data_dir) is not None


def check_md5(path: Path, md5: str) -> None:
    """Raise DataError unless the file has the published md5."""
    if (actual_md5 := file_md5(path)) != md5:
        raise damaged_error(path, actual_md5, md5)


def file_md5(path: Path) -> str:
    """Return a file's md5: publishers of datasets give no other digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def content_md5(data: bytes) -> str:
    """Return the md5 of what a compressed file holds."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def damaged_error(path: Path, actual_md5: str, md5: str) -> DataError:
    """Return the error of a file that is not the published one."""
    return DataError(
        f"{path} is damaged or partial: md5 {actual_md5}, published is {md5}; delete it "
        "and fetch it again"
    )
