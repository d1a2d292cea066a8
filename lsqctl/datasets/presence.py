"""Whether a dataset lies in the data folder, without opening it.  No torch, no numpy."""

from __future__ import annotations

from pathlib import Path

from lsqctl.datasets import DATASETS
from lsqctl.datasets.image_folders import check_class_folders, images_root
from lsqctl.datasets.image_lists import begins_as_list, is_list
from lsqctl.datasets.image_pack import SPLITS, SUFFIX
from lsqctl.discovery import is_plugin_name
from lsqctl.errors import DataError
from lsqctl.text import did_you_mean


def check_dataset_present(name: str, data_dir: Path, folder: str | None = None) -> None:
    """Raise DataError, naming the paths tried, when nothing of the dataset is there.

    ``folder`` is a recipe's ``data.path``.
    """
    if not is_dataset_present(name, data_dir, folder):
        raise missing_dataset_error(name, data_dir, folder)
    root = images_root(data_dir, folder or name)
    for split in SPLITS if DATASETS[name].is_image_folder and not root.is_file() else ():
        check_class_folders(root / split)


def is_dataset_present(name: str, data_dir: Path, folder: str | None = None) -> bool:
    """Return whether one of the dataset's paths, or the ``folder``, is there, or it needs none."""
    paths = DATASETS.find(name).paths
    if folder is not None:
        root = images_root(data_dir, folder)
        return root.is_file() or (root / SPLITS[0]).exists()
    return not paths or any((data_dir / path).exists() for path in paths)


def missing_dataset_error(name: str, data_dir: Path, folder: str | None = None) -> DataError:
    """Return the error of a dataset that is not there."""
    info = DATASETS.find(name)
    if folder is not None:
        near = did_you_mean(folder, image_folders(data_dir))
        root = images_root(data_dir, folder)
        return DataError(
            f"data.path: there is no folder {root} with a folder train{near}; put a "
            "folder of images for each class into its train and val, or name what `lsqctl data "
            "pack` wrote, or a list (docs/data-layouts.md)"
        )
    remedy = f"`lsqctl data fetch {name}` downloads it"
    if info.is_image_folder:
        remedy = f"put a folder of images for each class into {name}/train and {name}/val"
    elif is_plugin_name(name):
        remedy = "put there what its plugin reads"
    searched = f"searched {', '.join(info.paths)}" if info.paths else "its plugin found none"
    return DataError(
        f"no {name} data in {data_dir}: {searched}; {remedy}, "
        "--data-dir or LSQCTL_DATA says where it lies"
    )


def image_folders(data_dir: Path) -> list[str]:
    """Return what `data.path` may name in the data folder: folders, packed ones, lists; sorted."""
    if not data_dir.is_dir():
        return []
    return sorted(
        path.name
        for path in data_dir.iterdir()
        if all((path / split).is_dir() for split in SPLITS)
        or (path.suffix == SUFFIX and path.is_file())
        or (is_list(path) and begins_as_list(path))
    )
