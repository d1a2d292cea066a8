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
    with path.open("rb") as file:
        actual_md5 = hashlib.file_digest(
            file, lambda: hashlib.md5(usedforsecurity=False)
        ).hexdigest()
    if actual_md5 != md5:
        raise DataError(
            f"{path} is damaged or partial: md5 {actual_md5}, published is {md5}; delete it "
            "and fetch it again"
        )
