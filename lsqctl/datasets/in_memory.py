"""Datasets small enough for memory: what each must be able to do."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lsqctl.datasets import DATASETS, DatasetInfo
from lsqctl.errors import DataError, PluginError

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


class MapStyle(Protocol):
    """A split whose items are asked for one by one, as ``torch.utils.data.Dataset``'s are.

    An item is an image, uint8 (C, H, W) as a tensor or an array, or one of Pillow's, and its label.
    """

    def __len__(self) -> int:
        """Return the number of items."""

    def __getitem__(self, index: int, /) -> tuple[object, object]:
        """Return image and label of one item, the same each time."""


class MapDataset(InMemoryDataset):
    """A dataset of two map-style splits, each item of which is read once, when it is opened."""

    @abstractmethod
    def splits(self, data_dir: Path) -> tuple[MapStyle, MapStyle, str] | None:
        """Return training and evaluation split, not augmented, and a note on the source.

        None when nothing of the set lies in ``data_dir``.
        """

    def read(self, data_dir: Path) -> ArraySplits | None:
        """Return both splits as arrays; raises PluginError for an item that is none or varies."""
        found = self.splits(data_dir)
        if found is None:
            return None
        if not isinstance(found, tuple | list) or len(found) != 3:
            raise PluginError(
                f"the dataset {self.name}: splits(data_dir) must return three: the training split, "
                "the evaluation split and a note on the source"
            )
        train, evaluation, note = found
        return (self._stack("training", train), self._stack("test", evaluation), note)

    def _stack(self, split: str, items: MapStyle) -> Arrays:
        """Return the items of a split as two arrays; some are asked for twice."""
        pixels, labels = self._room_for(split, items)
        for index in range(len(labels)):
            pixels[index], labels[index] = self._item(split, items, index)
        for index in range(0, len(labels), max(1, len(labels) // _ASKED_TWICE)):
            image, label = self._item(split, items, index)
            if label != labels[index] or not np.array_equal(image, pixels[index]):
                raise self._item_error(split, index, "varies: asked for twice, it is not the same")
        return pixels, labels

    def _room_for(self, split: str, items: MapStyle) -> Arrays:
        """Return two arrays as long as a split; raises PluginError where that cannot be."""
        if not hasattr(items, "__len__"):
            raise PluginError(
                f"the dataset {self.name}: the {split} split, of the class {type(items).__name__}, "
                "has no length: it must be map-style, with __len__ and __getitem__"
            )
        n, side = len(items), self.info.image_size
        try:
            pixels = np.empty((n, self.info.channels, side, side), np.uint8)
            return pixels, np.empty(n, np.int64)
        except (MemoryError, ValueError):
            raise PluginError(
                f"the dataset {self.name}: the {n:,} images of the {split} split do not fit into "
                "memory, where a MapDataset is read to; a FolderDataset reads files as it trains"
            ) from None

    def _item(self, split: str, items: MapStyle, index: int) -> tuple[NDArray[np.uint8], int]:
        item = items[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise self._item_error(split, index, "must be a pair: image and label")
        image = np.asarray(item[0])
        if not hasattr(item[0], "dtype"):  # Pillow's: (H, W) or (H, W, C)
            image = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
        shape = (self.info.channels, self.info.image_size, self.info.image_size)
        if image.dtype != np.uint8 or image.shape != shape:
            found = f"{image.dtype} {image.shape}"
            if image.dtype.kind == "f":
                found += ": leave out ToTensor and Normalize, lsqctl normalizes pixels of 0 to 255"
            raise self._item_error(split, index, f"must be an image uint8 {shape}, is {found}")
        return image, self._label(split, index, item[1])

    def _label(self, split: str, index: int, label: object) -> int:
        number = np.asarray(label)
        is_number = number.size == 1 and number.dtype.kind in "iubf"
        if not is_number or not float(number.item()).is_integer():
            problem = f"must have the number of its class as label, from 0, is {label!r:.40}"
            raise self._item_error(split, index, problem)
        return int(number.item())

    def _item_error(self, split: str, index: int, problem: str) -> PluginError:
        return PluginError(f"the dataset {self.name}: item {index} of the {split} split {problem}")


_ASKED_TWICE = 16  # items of a split


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
