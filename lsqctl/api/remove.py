"""Remove runs: their rows, then their folders; links are never followed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.errors import StoreError
from lsqctl.run import Run
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.store import Store

_SAFE_ID = re.compile(r"[A-Za-z0-9]{1,64}")


@dataclass(frozen=True, slots=True)
class Removal:
    """One run that goes, its folder (None where it has none here) and that folder's size."""

    run: Run
    folder: Path | None
    size_bytes: int


def plan_removal(settings: Settings, runs: Sequence[Run]) -> list[Removal]:
    """Return what would go with these runs; nothing is touched."""
    planned = []
    for run in runs:
        folder = existing_run_dir(settings, run.id)
        planned.append(Removal(run, folder, tree_size(folder) if folder else 0))
    return planned


def remove_runs(store: Store, planned: Sequence[Removal], *, force: bool = False) -> None:
    """Remove the rows in one transaction, then the folders.

    In that order: a folder without a row is swept by `runs gc`, a row without its files would
    promise what is not there. Raises IllegalTransition for a running run and for one that others
    need, with nothing removed, and StoreError for a folder that cannot be removed.
    """
    store.remove([removal.run.id for removal in planned], force=force)
    for removal in planned:
        if removal.folder:
            remove_tree(removal.folder)


def existing_run_dir(settings: Settings, run_id: str) -> Path | None:
    """Return a run's folder, if there is one here; an id that could lead elsewhere has none."""
    if not _SAFE_ID.fullmatch(run_id):
        return None
    folder = settings.run_dir(run_id)
    return folder if folder.is_symlink() or folder.exists() else None


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it; of a link only the link itself.  Raises StoreError."""
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path)
    except OSError as error:
        raise StoreError(f"cannot remove {error.filename or path}: {error.strerror}") from None


def tree_size(path: Path) -> int:
    """Return the bytes of all files in a folder; links count as nothing."""
    if path.is_symlink():
        return 0
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a run at work may sweep its own
                total += (Path(folder) / name).lstat().st_size
    return total
