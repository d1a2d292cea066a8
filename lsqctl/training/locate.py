"""Where each dataset lies in the data folder, without opening it.  No torch, no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lsqctl.errors import DataError
from lsqctl.recipe import DATASETS

# One of these must be there, an image folder's both splits; digits come with scikit-learn.
PLACES: Mapping[str, tuple[str, ...]] = {
    "digits": (),
    "mnist": ("MNIST/raw",),
    "fashion_mnist": ("FashionMNIST/raw",),
    "cifar10": ("cifar-10-binary.tar.gz", "cifar-10-batches-bin", "cifar-10-python.tar.gz"),
    "cifar100": ("cifar-100-binary.tar.gz", "cifar-100-binary", "cifar-100-python.tar.gz"),
    "imagenet": ("imagenet/train",),
    "imagefolder": ("imagefolder/train",),
}


def check_present(name: str, data_dir: Path) -> None:
    """Raise DataError, naming the places looked in, when nothing of the dataset is there."""
    places = PLACES[name]
    if places and not any((data_dir / place).exists() for place in places):
        raise missing(name, data_dir)


def missing(name: str, data_dir: Path) -> DataError:
    """Return the error of a dataset that is not there."""
    way = f"`lsqctl data fetch {name}` downloads it"
    if DATASETS[name].folder:
        way = f"put a folder of images for each class into {name}/train and {name}/val"
    return DataError(
        f"no {name} data in {data_dir}: looked for {', '.join(PLACES[name])}; {way}, "
        "--data-dir or LSQCTL_DATA says where it lies"
    )
