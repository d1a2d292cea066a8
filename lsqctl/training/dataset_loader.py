"""Open the dataset that a recipe names: two splits, checked, with their digest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from lsqctl.errors import DataError
from lsqctl.recipe import DATASETS, IMAGENET_MEAN, IMAGENET_STD, DataSection
from lsqctl.training.cifar import LAYOUTS, read_cifar
from lsqctl.training.data_pipeline import DatasetSplits, InMemoryImages
from lsqctl.training.dataset_paths import (
    check_class_folders,
    check_dataset_present,
    class_names,
    list_images,
    missing_dataset_error,
)
from lsqctl.training.digits import Arrays, read_digits
from lsqctl.training.idx_files import read_idx_dataset


def open_dataset(data: DataSection, data_dir: Path, *, num_workers: int = 0) -> DatasetSplits:
    """Return the dataset; raises DataError when it is missing, partial or damaged.

    ``num_workers`` processes decode image files; sets in memory need none.
    """
    check_dataset_present(data.name, data_dir)
    if DATASETS[data.name].is_image_folder:
        return _open_folder(data, data_dir, num_workers)
    splits = _read_arrays(data.name, data_dir)
    if splits is None:
        raise missing_dataset_error(data.name, data_dir)
    train, test = (_in_memory(arrays, data) for arrays in splits[:2])
    info = DATASETS[data.name]
    mean, std = normalization(data)
    return DatasetSplits(
        train,
        test,
        eval_split="test",
        num_classes=info.classes or 0,
        channels=info.channels,
        image_size=info.size,
        mean=mean,
        std=std,
        digest=f"sha256:{train.digest()[:32]}{test.digest()[:32]}",
        preprocessing=f"as it is, {info.size}x{info.size}; {_normalization_text(mean, std)}; "
        f"training: pad {data.pad} and crop, mirror {'yes' if data.flip else 'no'}",
        notes=(f"{data.name}: {splits[2]}",),
    )


def _read_arrays(name: str, data_dir: Path) -> tuple[Arrays, Arrays, str] | None:
    if name == "digits":
        return read_digits()
    return read_cifar(name, data_dir) if name in LAYOUTS else read_idx_dataset(name, data_dir)


def _in_memory(arrays: Arrays, data: DataSection) -> InMemoryImages:
    pixels, labels = arrays
    return InMemoryImages(torch.from_numpy(pixels.copy()), torch.from_numpy(labels.copy()), data)


def _open_folder(data: DataSection, data_dir: Path, num_workers: int) -> DatasetSplits:
    from lsqctl.training.image_folder import FolderImages

    root = data_dir / data.name
    (train_files, train_classes, train_notes), (eval_files, eval_classes, eval_notes) = (
        _list_split(root / split, data.name) for split in ("train", "val")
    )
    expected = DATASETS[data.name].classes
    if train_classes != eval_classes or (expected and len(train_classes) != expected):
        raise DataError(
            f"{root}: {len(train_classes)} classes in train, {len(eval_classes)} in val"
            + (f", there should be {expected}" if expected else ", they should be the same")
        )
    train = FolderImages(train_files, data, num_workers=num_workers)
    evaluation = FolderImages(eval_files, data, num_workers=num_workers)
    mean, std = normalization(data)
    return DatasetSplits(
        train,
        evaluation,
        eval_split="val",
        num_classes=len(train_classes),
        channels=3,
        image_size=data.crop,
        mean=mean,
        std=std,
        digest=f"listing-sha256:{train.digest()[:32]}{evaluation.digest()[:32]}",
        preprocessing=f"resize {data.resize_mode} {data.resize} {data.interpolation} antialias, "
        f"centre crop {data.crop}; {_normalization_text(mean, std)}; "
        f"training: {data.train_crop} crop, "
        f"mirror {'yes' if data.flip else 'no'}",
        notes=(
            f"{data.name}: {len(train)} and {len(evaluation)} files, bytes not verified",
            *train_notes,
            *eval_notes,
        ),
    )


def _list_split(
    folder: Path, name: str
) -> tuple[list[tuple[str, int]], list[str], tuple[str, ...]]:
    """Return the images with their labels, the classes, and notes on what was passed over."""
    if not folder.is_dir():
        raise DataError(
            f"{folder} is missing: {name} needs train and val, one folder a class in each"
        )
    check_class_folders(folder)
    classes = class_names(folder)
    if not classes:
        raise DataError(f"{folder} has no folder: put one for each class there")
    files, notes = list_images(folder)
    return files, classes, notes


def normalization(data: DataSection) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation, per channel of pixels in 0..1."""
    info = DATASETS[data.name]
    if data.normalize == "imagenet":
        return IMAGENET_MEAN, IMAGENET_STD
    if data.normalize == "none":
        return (0.0,) * info.channels, (1.0,) * info.channels
    return info.mean, info.std


def _normalization_text(mean: Iterable[float], std: Iterable[float]) -> str:
    return f"/255, mean {' '.join(map(str, mean))}, std {' '.join(map(str, std))}"
