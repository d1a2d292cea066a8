"""MNIST and Fashion-MNIST from their compressed idx files, checked by torchvision's md5s."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsqctl.errors import DataError
from lsqctl.training.cifar import check_md5
from lsqctl.training.dataset_paths import DATASET_PATHS
from lsqctl.training.digits import Arrays


def torchvision_class(name: str) -> Any:
    """Return torchvision's class of the dataset: its addresses and md5s."""
    from torchvision.datasets import MNIST, FashionMNIST

    return {"mnist": MNIST, "fashion_mnist": FashionMNIST}[name]


def read_idx_dataset(name: str, data_dir: Path) -> tuple[Arrays, Arrays, str] | None:
    """Return (pixels (N, 1, 28, 28), labels (N)) of both splits; None when the folder is absent."""
    folder = data_dir / DATASET_PATHS[name][0]
    if not folder.is_dir():
        return None
    arrays = []
    for file, md5 in torchvision_class(name).resources:
        path = folder / file
        if not path.is_file():
            raise DataError(f"{path} is missing; `lsqctl data fetch {name}`")
        check_md5(path, md5)
        arrays.append(parse_idx(gzip.decompress(path.read_bytes()), path))
    train_images, train_labels, test_images, test_labels = arrays
    return (
        (train_images[:, None], train_labels.astype(np.int64)),
        (test_images[:, None], test_labels.astype(np.int64)),
        "md5 verified",
    )


def parse_idx(data: bytes, path: Path) -> NDArray[np.uint8]:
    """Return the array of an idx file of bytes: magic 0x08 and rank, big-endian sizes, values."""
    rank = data[3] if len(data) > 4 and data[:3] == b"\0\0\x08" else 0
    sizes = range(4, 4 + 4 * rank, 4)
    shape = [int.from_bytes(data[offset : offset + 4], "big") for offset in sizes]
    if not rank or len(data) != 4 + 4 * rank + int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{path} is no idx file of bytes, or is cut short; fetch it again")
    return np.frombuffer(data[4 + 4 * rank :], dtype=np.uint8).reshape(shape)
