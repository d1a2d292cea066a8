"""What names the content of a dataset: looked at and checked alike by submit, doctor and worker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.datasets import DATASETS
from lsqctl.datasets.image_folders import FolderDataset, images_digest, images_root
from lsqctl.datasets.presence import check_dataset_present, missing_dataset_error
from lsqctl.discovery import plugin_faults

if TYPE_CHECKING:
    from lsqctl.datasets.in_memory import InMemoryDataset


def dataset_identity(name: str, data_dir: Path, folder: str | None = None) -> str:
    """Return what names a dataset's content, the same wherever it lies and however it is packed.

    ``folder`` is a recipe's ``data.path``. Raises DataError where it is missing, partial or
    damaged, PluginError where a plugin's is not as it declares.
    """
    check_dataset_present(name, data_dir, folder)
    plugin = DATASETS.plugin_of(name)
    with plugin_faults(plugin):
        dataset = load_dataset(name, folder)
        if isinstance(dataset, FolderDataset):
            return images_digest(
                images_root(data_dir, dataset.folder), dataset.list_splits(data_dir)
            )
        if plugin:
            from lsqctl.datasets.array_checks import read_plugin_dataset

            read_plugin_dataset(dataset, data_dir)
        identity: str | None = dataset.identify(data_dir)
    if identity is None:
        raise missing_dataset_error(name, data_dir, folder)
    return identity


def load_dataset(name: str, folder: str | None) -> InMemoryDataset | FolderDataset:
    """Return what reads a dataset; a folder of images lies in ``folder``, or in its name's."""
    dataset: InMemoryDataset | FolderDataset = DATASETS.load(name)(name)
    if isinstance(dataset, FolderDataset):
        dataset.folder = folder or name
    return dataset
