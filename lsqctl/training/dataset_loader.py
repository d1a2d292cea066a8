"""Open the dataset that a recipe names: two splits, checked, with their digest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import torch

from lsqctl.datasets import DATASETS
from lsqctl.datasets.array_checks import check_plugin_dataset
from lsqctl.datasets.image_folders import FolderDataset
from lsqctl.datasets.in_memory import Arrays, InMemoryDataset
from lsqctl.datasets.presence import check_dataset_present, missing_dataset_error
from lsqctl.discovery import plugin_faults
from lsqctl.recipe import DataSection
from lsqctl.training.data_pipeline import DatasetSplits, InMemoryImages


def open_dataset(data: DataSection, data_dir: Path, *, num_workers: int = 0) -> DatasetSplits:
    """Return the dataset; raises DataError when it is missing, partial or damaged.

    ``num_workers`` processes decode image files; sets in memory need none.
    """
    check_dataset_present(data.name, data_dir)
    plugin = DATASETS.plugin_of(data.name)
    with plugin_faults(plugin) if plugin else contextlib.nullcontext():
        dataset: InMemoryDataset | FolderDataset = DATASETS.load(data.name)(data.name)
        if isinstance(dataset, FolderDataset):
            return _open_folder(dataset, data, data_dir, num_workers)
        if plugin:
            check_plugin_dataset(dataset, data_dir)
        return _open_in_memory(dataset, data, data_dir)


def _open_in_memory(dataset: InMemoryDataset, data: DataSection, data_dir: Path) -> DatasetSplits:
    splits = dataset.read(data_dir)
    if splits is None:
        raise missing_dataset_error(data.name, data_dir)
    info, size = dataset.info, dataset.info.image_size
    train, test = (_in_memory(arrays, data) for arrays in splits[:2])
    mean, std = normalization(data)
    return DatasetSplits(
        train,
        test,
        eval_split="test",
        num_classes=info.classes or 0,
        channels=info.channels,
        image_size=size,
        mean=mean,
        std=std,
        digest=f"sha256:{train.digest()[:32]}{test.digest()[:32]}",
        preprocessing=f"as it is, {size}x{size}; {_normalization_text(mean, std)}; "
        f"training: pad {data.pad} and crop, {_mirror_text(data)}",
        notes=(f"{data.name}: {splits[2]}",),
    )


def _in_memory(arrays: Arrays, data: DataSection) -> InMemoryImages:
    pixels, labels = arrays
    return InMemoryImages(torch.from_numpy(pixels.copy()), torch.from_numpy(labels.copy()), data)


def _open_folder(
    dataset: FolderDataset, data: DataSection, data_dir: Path, num_workers: int
) -> DatasetSplits:
    from lsqctl.training.image_folder import FolderImages

    train_split, eval_split = dataset.list_splits(data_dir)
    train = FolderImages(train_split.files, data, num_workers=num_workers)
    evaluation = FolderImages(eval_split.files, data, num_workers=num_workers)
    mean, std = normalization(data)
    return DatasetSplits(
        train,
        evaluation,
        eval_split="val",
        num_classes=len(train_split.classes),
        channels=3,
        image_size=data.crop,
        mean=mean,
        std=std,
        digest=f"listing-sha256:{train.digest()[:32]}{evaluation.digest()[:32]}",
        preprocessing=f"resize {data.resize_mode} {data.resize} {data.interpolation} antialias, "
        f"centre crop {data.crop}; {_normalization_text(mean, std)}; "
        f"training: {data.train_crop} crop, {_mirror_text(data)}",
        notes=(
            f"{data.name}: {len(train)} and {len(evaluation)} files, bytes not verified",
            *train_split.notes,
            *eval_split.notes,
        ),
    )


def normalization(data: DataSection) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation, per channel of pixels in 0..1."""
    info = DATASETS["imagenet" if data.normalize == "imagenet" else data.name]
    if data.normalize == "none":
        return (0.0,) * info.channels, (1.0,) * info.channels
    return info.mean, info.std


def _mirror_text(data: DataSection) -> str:
    alternating = ", alternating" if data.flip_order == "alternating" else ""
    views = f", {data.views} views" if data.views else ""
    return f"mirror {'yes' if data.flip else 'no'}{alternating}{views}"


def _normalization_text(mean: Iterable[float], std: Iterable[float]) -> str:
    return f"/255, mean {' '.join(map(str, mean))}, std {' '.join(map(str, std))}"
