"""Choose the checkpoint that an attempt goes on from, and clear away what it cannot go on from.

Only a checkpoint that has its row counts: its metric rows went in with that row. Bytes without one
were left by an attempt that died, or lost its lease, between the two; they are removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from lsqctl.errors import DataError
from lsqctl.training.checkpoint import (
    Snapshot,
    checkpoints_in,
    folder_of,
    read_checkpoint,
    replaced,
)
from lsqctl.training.manifest import manifest_sha256

_ASIDE = "damaged-"


def resume_point(
    run_dir: Path, recorded: Collection[str] | None = None
) -> tuple[Snapshot | None, list[str]]:
    """Return the newest snapshot that verifies and is recorded, and a sentence for each other.

    ``recorded`` holds the sha256 of the manifests that have a row; None takes every one as such.
    A damaged checkpoint is set aside (until the next attempt), or it would be kept as one of the
    last two while good ones go. Only the run's owner may call this.
    """
    sweep(run_dir)
    complaints: list[str] = []
    for folder in checkpoints_in(run_dir):
        try:
            if recorded is not None and manifest_sha256(folder) not in recorded:
                complaints.append(f"removed a checkpoint that was never recorded: {folder}")
                shutil.rmtree(folder, ignore_errors=True)
                continue
            snapshot = read_checkpoint(folder)
        except DataError as error:
            complaints.append(f"passed over a damaged checkpoint: {error}")
            _set_aside(folder)
            continue
        _put_right(folder, folder_of(run_dir, snapshot.step))
        return snapshot, complaints
    return None, complaints


def sweep(run_dir: Path) -> None:
    """Remove what dead attempts left half written, and what an earlier one set aside."""
    for pattern in ("ckpt.tmp.*", f"{_ASIDE}*"):
        for folder in run_dir.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)


def _set_aside(folder: Path) -> None:
    try:
        folder.rename(folder.with_name(_ASIDE + folder.name))
    except OSError:  # a disk that only reads: the next write says so, in better words
        return


def _put_right(folder: Path, final: Path) -> None:
    """Finish a replacement that a crash cut short: one folder a step, under its own name."""
    if folder != final:
        folder.rename(final)
    shutil.rmtree(replaced(final), ignore_errors=True)
