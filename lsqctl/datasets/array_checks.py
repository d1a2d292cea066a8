"""What a dataset must be that nobody published: the arrays that it declares, the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lsqctl.datasets import DatasetInfo
from lsqctl.datasets.in_memory import Arrays, InMemoryDataset
from lsqctl.datasets.presence import missing_dataset_error
from lsqctl.errors import PluginError


def check_plugin_dataset(dataset: object, data_dir: Path) -> None:
    """Read what a plugin reads, twice; raise PluginError unless it is as its info says.

    Pixels are uint8 (N, C, H, W), labels int64 (N) of classes that there are, and both readings
    are the same to the bit: order and augmentation are lsqctl's, or no resume would be exact.
    """
    if not isinstance(dataset, InMemoryDataset):
        raise PluginError(
            f"the plugin dataset is a {type(dataset).__name__}, and no subclass of "
            "InMemoryDataset or FolderDataset"
        )
    splits, again = dataset.read(data_dir), dataset.read(data_dir)
    if splits is None or again is None:
        raise missing_dataset_error(dataset.name, data_dir)
    pairs = {"training": (splits[0], again[0]), "test": (splits[1], again[1])}
    for split, (arrays, arrays_again) in pairs.items():
        label = f"the plugin dataset {dataset.name}: the {split} split"
        if problem := split_problem(arrays, dataset.info):
            raise PluginError(f"{label} {problem}")
        if not _is_same(arrays, arrays_again):
            raise PluginError(
                f"{label} varies: read twice, it is not the same; leave order and augmentation "
                "to lsqctl, and draw nothing without a seed"
            )


def _is_same(arrays: Arrays, again: Arrays) -> bool:
    return np.array_equal(arrays[0], again[0]) and np.array_equal(arrays[1], again[1])


def split_problem(arrays: object, info: DatasetInfo) -> str:
    """Return what is wrong with a split; nothing where it is as declared."""
    if not (isinstance(arrays, tuple) and len(arrays) == 2):
        return "must be a pair of arrays: pixels and labels"
    pixels, labels = arrays
    return _pixels_problem(pixels, info) or _labels_problem(labels, len(pixels), info)


def _pixels_problem(pixels: object, info: DatasetInfo) -> str:
    shape = (info.channels, info.image_size, info.image_size)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        return f"must have pixels of uint8, has {_kind(pixels)}"
    if pixels.shape[1:] != shape:
        return f"must have images of {shape}, as it declares, has {pixels.shape[1:]}"
    return ""


def _labels_problem(labels: object, n_images: int, info: DatasetInfo) -> str:
    if not isinstance(labels, np.ndarray) or labels.dtype != np.int64:
        return f"must have labels of int64, has {_kind(labels)}"
    if labels.shape != (n_images,) or not n_images:
        return f"must have one label an image, has {labels.shape} for {n_images} images"
    highest = (info.classes or 0) - 1
    if labels.min() < 0 or labels.max() > highest:
        bounds = f"{labels.min()} to {labels.max()}"
        return f"must have labels of 0 to {highest}, as it declares, has {bounds}"
    return ""


def _kind(array: object) -> str:
    return str(getattr(array, "dtype", type(array).__name__))
