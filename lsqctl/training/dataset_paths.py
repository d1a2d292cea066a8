"""The paths of each dataset in the data folder, checked without opening it.  No torch, no numpy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lsqctl.errors import DataError
from lsqctl.recipe import DATASETS
from lsqctl.text import pluralize

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
    for split in ("train", "val") if DATASETS[name].is_image_folder else ():
        check_class_folders(data_dir / name / split)


def check_class_folders(split: Path) -> None:
    """Raise DataError for a class, a folder in ``split``, without an image; no file is opened."""
    classes = class_names(split) if split.is_dir() else []
    walk = ImageWalk.of_classes(split, classes)
    empty = [split / name for name in classes if next(walk.images(split / name), None) is None]
    if empty:
        more = f", and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise DataError(
            f"{empty[0]} has no image{more}: every class needs some "
            f"({' '.join(IMAGE_EXTENSIONS)}); remove the folder, or fill it"
        )


def class_names(split: Path) -> list[str]:
    """Return the names of the folders in ``split``, one a class, sorted: their labels in order."""
    with os.scandir(split) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def list_images(split: Path) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    """Return path and label of each image of a split, in torchvision's order, and notes.

    The notes say what was passed over: what is no regular file (reading a pipe would wait for
    ever), and links to folders that are listed already (a loop would multiply the images).
    """
    classes = class_names(split)
    walk = ImageWalk.of_classes(split, classes)
    files = [
        (os.path.join(*image), label)
        for label, name in enumerate(classes)
        for image in sorted(walk.images(split / name))
    ]
    return files, walk.notes(split)


@dataclass(slots=True)
class ImageWalk:
    """A walk through the classes of a split that enters no folder twice."""

    entered: set[tuple[int, int]]  # device and inode
    irregular: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    @classmethod
    def of_classes(cls, split: Path, classes: list[str]) -> ImageWalk:
        """Return a walk to which the split and its classes are not to be found below a class."""
        folders = [split, *(split / name for name in classes)] if classes else []
        return cls({_identity(os.stat(folder)) for folder in folders})

    def images(self, folder: Path) -> Iterator[tuple[str, str]]:
        """Yield folder and name of each image at or below ``folder``, in no order."""
        pending = [str(folder)]
        while pending:
            parent = pending.pop()
            with os.scandir(parent) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
                    if entry.is_dir():
                        pending += self._enter(entry)
                    elif entry.name.lower().endswith(IMAGE_EXTENSIONS):
                        if entry.is_file():
                            yield parent, entry.name
                        else:
                            self.irregular.append(entry.path)

    def _enter(self, entry: os.DirEntry[str]) -> list[str]:
        identity = _identity(entry.stat())
        if identity in self.entered:
            self.repeated.append(entry.path)
            return []
        self.entered.add(identity)
        return [entry.path]

    def notes(self, split: Path) -> tuple[str, ...]:
        """Say what was passed over, each kind with its first example."""
        kinds = (
            (self.irregular, "image name", "no regular file"),
            (self.repeated, "folder", "listed already, through a link"),
        )
        return tuple(
            f"{split}: passed over {pluralize(len(paths), noun)} ({reason}), first {min(paths)}"
            for paths, noun, reason in kinds
            if paths
        )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def missing_dataset_error(name: str, data_dir: Path) -> DataError:
    """Return the error of a dataset that is not there."""
    remedy = f"`lsqctl data fetch {name}` downloads it"
    if DATASETS[name].is_image_folder:
        remedy = f"put a folder of images for each class into {name}/train and {name}/val"
    return DataError(
        f"no {name} data in {data_dir}: searched {', '.join(DATASET_PATHS[name])}; {remedy}, "
        "--data-dir or LSQCTL_DATA says where it lies"
    )
