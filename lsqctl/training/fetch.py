"""Download a dataset into the data folder, checked by its published md5."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from urllib.error import URLError

import psutil

from lsqctl.errors import DataError, NotFound
from lsqctl.recipe import DATASETS
from lsqctl.text import did_you_mean
from lsqctl.training.cifar import LAYOUTS, check_md5
from lsqctl.training.dataset_paths import DATASET_PATHS
from lsqctl.training.idx_files import read_idx_dataset, torchvision_class

_TEMP_PREFIX = ".fetch-"


def fetch_dataset(name: str, data_dir: Path) -> Path | None:
    """Download ``name`` into ``data_dir`` unless it is there; return where, None for digits.

    Raises NotFound for an unknown name, DataError where it must be got by hand or the download
    fails. A partial download is never taken for the whole: the md5 decides.
    """
    if name not in DATASETS:
        raise NotFound(f"no dataset is named `{name}`{did_you_mean(name, DATASETS)}")
    if name == "digits":
        return None  # they come with scikit-learn
    if DATASETS[name].is_image_folder:
        raise DataError(
            f"{name} cannot be downloaded here; put class folders of images into "
            f"{data_dir / name / 'train'} and {data_dir / name / 'val'}"
        )
    data_dir.mkdir(parents=True, exist_ok=True)
    try:
        return _download(name, data_dir)
    except (URLError, OSError, RuntimeError) as error:
        raise DataError(
            f"{name} could not be fetched: {error}; fetch it where there is a network and copy "
            f"it into {data_dir}"
        ) from None


def _download(name: str, data_dir: Path) -> Path:
    """Download into a temporary folder, then rename the whole: half of it is never there."""
    relative_path = DATASET_PATHS[name][0]
    target = data_dir / relative_path
    if _is_complete(name, data_dir):
        return target
    _remove_stale_downloads(data_dir)
    with tempfile.TemporaryDirectory(
        prefix=f"{_TEMP_PREFIX}{os.getpid()}-", dir=data_dir
    ) as temp_dir:
        _download_files(name, Path(temp_dir))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            shutil.rmtree(target)
        (Path(temp_dir) / relative_path).replace(target)
    return target


def _download_files(name: str, folder: Path) -> None:
    """Download the first of ``DATASET_PATHS`` into a folder; each file's md5 is checked."""
    if name not in LAYOUTS:
        torchvision_class(name)(str(folder), download=True)
        return
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import download_url

    layout = LAYOUTS[name]
    torchvision_dataset = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    # it lies beside torchvision's own
    url = torchvision_dataset.url.replace(layout.python_archive, layout.archive)
    download_url(url, str(folder), layout.archive, layout.md5)


def _is_complete(name: str, data_dir: Path) -> bool:
    """Return whether the download is there already, and undamaged."""
    try:
        if name not in LAYOUTS:
            return read_idx_dataset(name, data_dir) is not None
        archive = data_dir / LAYOUTS[name].archive
        if not archive.is_file():
            return False
        check_md5(archive, LAYOUTS[name].md5)
    except DataError:
        return False
    return True


def _remove_stale_downloads(data_dir: Path) -> None:
    """Remove the temporary folders of killed downloads."""
    for leftover in data_dir.glob(f"{_TEMP_PREFIX}*"):
        pid = leftover.name.removeprefix(_TEMP_PREFIX).partition("-")[0]
        if not psutil.pid_exists(int(pid)):
            shutil.rmtree(leftover, ignore_errors=True)
