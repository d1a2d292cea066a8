"""Datasets of MNIST's form: compressed idx files, with torchvision's addresses and md5s."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from lsqctl.datasets.in_memory import ArraySplits, InMemoryDataset, check_md5
from lsqctl.errors import DataError

if TYPE_CHECKING:
    from torchvision.datasets import MNIST


class IdxDataset(InMemoryDataset):
    """Grey images and labels of two splits in four files, as torchvision's class downloads them."""

    torchvision_class: ClassVar[str]

    def read(self, data_dir: Path) -> ArraySplits | None:
        """Return pixels (N, 1, H, W) and labels (N) of both splits, each file's md5 checked."""
        folder = data_dir / self.info.paths[0]
        if not folder.is_dir():
            return None
        arrays = []
        for file, md5 in self._torchvision().resources:
            path = folder / file
            if not path.is_file():
                raise DataError(f"{path} is missing; `lsqctl data fetch {self.name}`")
            check_md5(path, md5)
            arrays.append(parse_idx(gzip.decompress(path.read_bytes()), path))
        train_images, train_labels, test_images, test_labels = arrays
        return (
            (train_images[:, None], train_labels.astype(np.int64)),
            (test_images[:, None], test_labels.astype(np.int64)),
            "md5 verified",
        )

    def download(self, folder: Path) -> None:
        """Let torchvision download the files and check their md5s."""
        self._torchvision()(str(folder), download=True)

    def _torchvision(self) -> type[MNIST]:
        import torchvision.datasets

        dataset: type[MNIST] = getattr(torchvision.datasets, self.torchvision_class)
        return dataset


def parse_idx(data: bytes, path: Path) -> NDArray[np.uint8]:
    """Return the array of an idx file of bytes: magic 0x08 and rank, big-endian sizes, values."""
    rank = data[3] if len(data) > 4 and data[:3] == b"\0\0\x08" else 0
    sizes = range(4, 4 + 4 * rank, 4)
    shape = [int.from_bytes(data[offset : offset + 4], "big") for offset in sizes]
    if not rank or len(data) != 4 + 4 * rank + int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{path} is no idx file of bytes, or is cut short; fetch it again")
    return np.frombuffer(data[4 + 4 * rank :], dtype=np.uint8).reshape(shape)
