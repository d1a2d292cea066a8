"""Whether a dataset lies in the data folder, without opening it.  No torch, no numpy."""

from __future__ import annotations

from pathlib import Path

from lsqctl.datasets import DATASETS
from lsqctl.datasets.image_folders import SPLITS, check_class_folders
from lsqctl.errors import DataError


def check_dataset_present(name: str, data_dir: Path) -> None:
    """Raise DataError, naming the paths tried, when nothing of the dataset is there."""
    if not is_dataset_present(name, data_dir):
        raise missing_dataset_error(name, data_dir)
    for split in SPLITS if DATASETS[name].is_image_folder else ():
        check_class_folders(data_dir / name / split)


def is_dataset_present(name: str, data_dir: Path) -> bool:
    """Return whether one of the dataset's paths is there, or it needs none."""
    paths = DATASETS.find(name).paths
    return not paths or any((data_dir / path).exists() for path in paths)


def missing_dataset_error(name: str, data_dir: Path) -> DataError:
    """Return the error of a dataset that is not there."""
    info = DATASETS.find(name)
    remedy = f"`lsqctl data fetch {name}` downloads it"
    if info.is_image_folder:
        remedy = f"put a folder of images for each class into {name}/train and {name}/val"
    return DataError(
        f"no {name} data in {data_dir}: searched {', '.join(info.paths)}; {remedy}, "
        "--data-dir or LSQCTL_DATA says where it lies"
    )
