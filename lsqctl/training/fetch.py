"""Download a dataset into the data folder, checked by its published md5."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

from lsqctl.errors import DataError, NotFound, did_you_mean
from lsqctl.recipe import DATASETS
from lsqctl.training.cifar import LAYOUTS
from lsqctl.training.idx_files import torchvision_class
from lsqctl.training.locate import PLACES


def fetch_dataset(name: str, data_dir: Path) -> Path | None:
    """Download ``name`` into ``data_dir`` unless it is there; return where, None for digits.

    Raises NotFound for an unknown name, DataError where it must be got by hand or the download
    fails. A partial download is never taken for the whole: the md5 decides.
    """
    if name not in DATASETS:
        raise NotFound(f"no dataset is named `{name}`{did_you_mean(name, DATASETS)}")
    if name == "digits":
        return None  # they come with scikit-learn
    if DATASETS[name].folder:
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
    if name not in LAYOUTS:
        torchvision_class(name)(str(data_dir), download=True)
        return data_dir / PLACES[name][0]
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import download_url

    layout = LAYOUTS[name]
    home = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    url = home.url.replace(layout.python_archive, layout.archive)  # beside torchvision's own
    download_url(url, str(data_dir), layout.archive, layout.md5)
    return data_dir / layout.archive
