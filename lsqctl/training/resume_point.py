"""Choose the checkpoint that an attempt goes on from, and clear away what it cannot go on from.

Only a checkpoint that has its row counts: its metric rows went in with that row. Bytes without one
were left by an attempt that died, or lost its lease, between the two; they are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from lsqctl.errors import DataError
from lsqctl.training.checkpoint import CheckpointContent, read_checkpoint
from lsqctl.training.folders import without_lease, checkpoint_dirs, checkpoint_dir, remove_checkpoints
from lsqctl.training.manifest import manifest_sha256, read_manifest

_DAMAGED_PREFIX = "damaged-"


def resume_point(
    run_dir: Path,
    recorded_checkpoints: Collection[str] | None = None,
    with_lease: Callable[[Callable[[], None]], None] = without_lease,
) -> tuple[CheckpointContent | None, list[str]]:
    """Return the newest checkpoint that verifies and is recorded, and a note on each other.

    ``recorded_checkpoints`` are the manifests' sha256 that have a row; None takes every one.
    A damaged checkpoint is quarantined (until the next attempt), or it would count as one of the
    last two while good ones go. ``with_lease`` changes the folder while nobody else can
    become the run's owner, and raises LeaseLost when somebody has.
    """
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    notes: list[str] = []
    with_lease(lambda: notes.extend(clean_up(run_dir, recorded_checkpoints)))
    for folder in checkpoint_dirs(run_dir):
        try:
            content = read_checkpoint(folder)
        except DataError as error:
            notes.append(f"passed over a damaged checkpoint: {error}")
            with_lease(partial(_quarantine, folder))
            continue
        with_lease(partial(_finish_rename, folder, checkpoint_dir(run_dir, content.step)))
        return content, notes
    return None, notes


def clean_up(run_dir: Path, recorded_checkpoints: Collection[str] | None = None) -> list[str]:
    """Remove what dead attempts left half done, and return notes on it.

    That is what was half written, what was quarantined earlier, and whole checkpoints without
    a row. A damaged one stays, to be reported.
    """
    for pattern in ("ckpt.tmp.*", f"{_DAMAGED_PREFIX}*"):
        remove_checkpoints(run_dir.glob(pattern))
    if recorded_checkpoints is None:
        return []
    orphans = [path for path in checkpoint_dirs(run_dir) if _intact_sha256(path) not in {None, *recorded_checkpoints}]
    remove_checkpoints(orphans)
    return [f"removed a checkpoint that was never recorded: {folder}" for folder in orphans]


def _intact_sha256(folder: Path) -> str | None:
    """Return the sha256 of a manifest that has its own, else None."""
    try:
        read_manifest(folder)
        return manifest_sha256(folder)
    except DataError:
        return None


def _quarantine(folder: Path) -> None:
    try:
        folder.rename(folder.with_name(_DAMAGED_PREFIX + folder.name))
    except OSError:  # a disk that only reads: the next write says so, in better words
        return


def _finish_rename(folder: Path, final: Path) -> None:
    """Finish a replacement that a crash cut short: one folder a step, under its own name."""
    if folder.exists() and folder != final:
        folder.rename(final)
    remove_checkpoints(other for other in checkpoint_dirs(final.parent) if other.stem == final.name != other.name)
