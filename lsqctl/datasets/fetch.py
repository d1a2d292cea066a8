"""Download a dataset into the data folder, checked by its published md5."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.error import URLError

from lsqctl.atomic_write import half_made, stale_temporaries
from lsqctl.datasets import DATASETS
from lsqctl.datasets.in_memory import InMemoryDataset
from lsqctl.errors import DataError


def fetch_dataset(name: str, data_dir: Path) -> Path | None:
    """Download ``name`` into ``data_dir`` unless it is there; return where.

    None for one that is installed with a library, and has no path there.
    Raises NotFound for an unknown name, DataError where it must be got by hand or the download
    fails. A partial download is never taken for the whole: the md5 decides.
    """
    info = DATASETS.find(name)
    if not info.paths:
        return None
    if info.is_image_folder:
        raise DataError(
            f"{name} cannot be downloaded here; put class folders of images into "
            f"{data_dir / name / 'train'} and {data_dir / name / 'val'}"
        )
    data_dir.mkdir(parents=True, exist_ok=True)
    try:
        return _download(DATASETS.load(name)(name), data_dir)
    except (URLError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())  # torchvision's has a line for each address
        raise DataError(
            f"{name} could not be fetched: {reason}; fetch it where there is a network and copy "
            f"it into {data_dir}"
        ) from None


def _download(dataset: InMemoryDataset, data_dir: Path) -> Path:
    """Download into a temporary folder, then rename the whole: half of it is never there."""
    relative_path = dataset.info.paths[0]
    target = data_dir / relative_path
    if _is_complete(dataset, data_dir):
        return target
    for leftover in stale_temporaries(data_dir):
        shutil.rmtree(leftover, ignore_errors=True)
    with half_made(data_dir / dataset.name) as temporary:
        temporary.mkdir(mode=0o700)
        dataset.download(temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            shutil.rmtree(target)
        (temporary / relative_path).replace(target)
    return target


def _is_complete(dataset: InMemoryDataset, data_dir: Path) -> bool:
    """Return whether the download is there already, and undamaged."""
    try:
        return dataset.is_complete(data_dir)
    except DataError:
        return False
