"""The paths of each dataset in the data folder, checked without opening it.  No torch, no numpy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lsqctl.errors import DataError
from lsqctl.recipe import DATASETS

# One of these must be there, an image folder's both splits; digits come with scikit-learn.
DATASET_PATHS: Mapping[str, tuple[str, ...]] = {
    "digits": (),
    "mnist": ("MNIST/raw",),
    "fashion_mnist": ("FashionMNIST/raw",),
    "cifar10": ("cifar-10-binary.tar.gz", "cifar-10-batches-bin", "cifar-10-python.tar.gz"),
    "cifar100": ("cifar-100-binary.tar.gz", "cifar-100-binary", "cifar-100-python.tar.gz"),
    "imagenet": ("imagenet/train",),
    "imagefolder": ("imagefolder/train",),
}

# What torchvision's ImageFolder takes for an image; a test holds it equal.
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def check_dataset_present(name: str, data_dir: Path) -> None:
    """Raise DataError, naming the paths tried, when nothing of the dataset is there."""
    paths = DATASET_PATHS[name]
    if paths and not any((data_dir / path).exists() for path in paths):
        raise missing_dataset_error(name, data_dir)
    for split in ("train", "val") if DATASETS[name].folder else ():
        check_class_folders(data_dir / name / split)


def check_class_folders(split: Path) -> None:
    """Raise DataError for a class, a folder in ``split``, without an image; no file is opened."""
    classes = sorted(folder for folder in split.glob("*") if folder.is_dir())
    if empty := [folder for folder in classes if not _has_image(folder)]:
        more = f", and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise DataError(
            f"{empty[0]} has no image{more}: every class needs some "
            f"({' '.join(IMAGE_EXTENSIONS)}); remove "
            "the folder, or fill it"
        )


def _has_image(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(
            _has_image(Path(entry))
            if entry.is_dir()
            else entry.name.lower().endswith(IMAGE_EXTENSIONS)
            for entry in entries
        )


def missing_dataset_error(name: str, data_dir: Path) -> DataError:
    """Return the error of a dataset that is not there."""
    remedy = f"`lsqctl data fetch {name}` downloads it"
    if DATASETS[name].folder:
        remedy = f"put a folder of images for each class into {name}/train and {name}/val"
    return DataError(
        f"no {name} data in {data_dir}: searched {', '.join(DATASET_PATHS[name])}; {remedy}, "
        "--data-dir or LSQCTL_DATA says where it lies"
    )
