"""Fetch datasets into the data folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lsqctl.errors import NotFound, did_you_mean
from lsqctl.recipe import DATASETS
from lsqctl.settings import Settings


def download_dataset(name: str, settings: Settings, *, notify: Callable[[str], None]) -> Path | None:
    """Download a dataset, checked by its published digest; None for one that needs none.

    Raises NotFound for an unknown name, DataError where it cannot be downloaded.
    """
    if name not in DATASETS:
        listed = ", ".join(DATASETS)
        raise NotFound(f"no dataset `{name}`{did_you_mean(name, DATASETS)} (known: {listed})")
    from lsqctl.training.fetch import fetch_dataset

    notify(f"fetching {name} into {settings.data_dir}")
    return fetch_dataset(name, settings.data_dir)
