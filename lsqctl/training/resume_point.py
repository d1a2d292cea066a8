"""Choose the checkpoint that an attempt goes on from, and clear away what it cannot go on from.

Only a checkpoint that has its row counts: its metric rows went in with that row. Bytes without one
were left by an attempt that died, or lost its lease, between the two; they are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from lsqctl.errors import DataError
from lsqctl.training.checkpoint import Snapshot, read_checkpoint
from lsqctl.training.folders import at_once, checkpoint_folders, folder_of, remove
from lsqctl.training.manifest import manifest_sha256, read_manifest

_DAMAGED = "damaged-"


def resume_point(
    run_dir: Path,
    recorded: Collection[str] | None = None,
    owning: Callable[[Callable[[], None]], None] = at_once,
) -> tuple[Snapshot | None, list[str]]:
    """Return the newest snapshot that verifies and is recorded, and a sentence for each other.

    ``recorded`` holds the sha256 of the manifests that have a row; None takes every one as such.
    A damaged checkpoint is set aside (until the next attempt), or it would be kept as one of the
    last two while good ones go. ``owning`` does what changes the folder while nobody else can
    become the run's owner, and raises LeaseLost when somebody has.
    """
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    complaints: list[str] = []
    owning(lambda: complaints.extend(sweep(run_dir, recorded)))
    for folder in checkpoint_folders(run_dir):
        try:
            snapshot = read_checkpoint(folder)
        except DataError as error:
            complaints.append(f"passed over a damaged checkpoint: {error}")
            owning(partial(_set_aside, folder))
            continue
        owning(partial(_put_right, folder, folder_of(run_dir, snapshot.step)))
        return snapshot, complaints
    return None, complaints


def sweep(run_dir: Path, recorded: Collection[str] | None = None) -> list[str]:
    """Remove what dead attempts left half done, and return what is worth saying of it.

    That is what was half written, what an earlier attempt set aside, and whole checkpoints without
    a row. A damaged one stays, to be complained of.
    """
    for pattern in ("ckpt.tmp.*", f"{_DAMAGED}*"):
        remove(run_dir.glob(pattern))
    if recorded is None:
        return []
    orphans = [one for one in checkpoint_folders(run_dir) if _intact(one) not in {None, *recorded}]
    remove(orphans)
    return [f"removed a checkpoint that was never recorded: {folder}" for folder in orphans]


def _intact(folder: Path) -> str | None:
    """Return the sha256 of a manifest that has its own, else None."""
    try:
        read_manifest(folder)
        return manifest_sha256(folder)
    except DataError:
        return None


def _set_aside(folder: Path) -> None:
    try:
        folder.rename(folder.with_name(_DAMAGED + folder.name))
    except OSError:  # a disk that only reads: the next write says so, in better words
        return


def _put_right(folder: Path, final: Path) -> None:
    """Finish a replacement that a crash cut short: one folder a step, under its own name."""
    if folder.exists() and folder != final:
        folder.rename(final)
    remove(one for one in checkpoint_folders(final.parent) if one.stem == final.name != one.name)
