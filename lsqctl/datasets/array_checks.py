"""What a dataset that a plugin reads must be: the arrays that it declares."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from lsqctl.datasets import DatasetInfo
from lsqctl.datasets.in_memory import Arrays, ArraySplits, InMemoryDataset
from lsqctl.datasets.presence import missing_dataset_error
from lsqctl.errors import PluginError


def read_plugin_dataset(dataset: object, data_dir: Path) -> ArraySplits:
    """Return what a plugin reads, once; raise PluginError unless it is as its info says.

    Pixels are uint8 (N, C, H, W), labels int64 (N) of classes that there are, as arrays or as
    torch's tensors. Order and augmentation are lsqctl's. What varies from one reading to the next
    is found by its digest: by ``plugins check``, and when a run that began with other images is
    resumed.
    """
    if not isinstance(dataset, InMemoryDataset):
        raise PluginError(
            f"the plugin dataset is a {type(dataset).__name__}, and no subclass of "
            "InMemoryDataset, MapDataset or FolderDataset"
        )
    splits = dataset.read(data_dir)
    if splits is None:
        raise missing_dataset_error(dataset.name, data_dir)
    if not isinstance(splits, tuple | list) or len(splits) != 3:
        raise PluginError(
            f"the plugin dataset {dataset.name}: read(data_dir) must return three: training split, "
            "evaluation split, each (pixels, labels), and a note on the source"
        )
    splits = (_as_arrays(splits[0]), _as_arrays(splits[1]), str(splits[2] or ""))
    for split, arrays in {"training": splits[0], "test": splits[1]}.items():
        if problem := split_problem(arrays, dataset.info):
            raise PluginError(f"the plugin dataset {dataset.name}: the {split} split {problem}")
    return splits


def _as_arrays(split: object) -> Arrays:
    """Return a split with arrays in the place of tensors; what is no split stays as it is."""
    parts = split
    if isinstance(split, tuple):
        parts = tuple(part.numpy() if hasattr(part, "numpy") else part for part in split)
    return cast("Arrays", parts)  # split_problem asks what it is


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
