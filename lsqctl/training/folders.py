"""The checkpoint folders of one run: their names, which are kept, and how one is put in place."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from lsqctl.errors import DataError
from lsqctl.failpoint import failpoint
from lsqctl.training.durable_file import fsync_dir
from lsqctl.training.manifest import read_manifest

_BACKUP_SUFFIX = ".old"  # a checkpoint while another of its step replaces it
_CHECKPOINT_NAME = re.compile(r"ckpt-(\d{8,})(\.old)?")
_KEEP_LAST = 2


def checkpoint_dir(run_dir: Path, step: int) -> Path:
    """Return the path of the checkpoint of a step, once it is complete."""
    return run_dir / f"ckpt-{step:08d}"


def without_lease(work: Callable[[], None]) -> None:
    """Do the work at once: there is no lease, hence no other owner."""
    work()


def remove_checkpoints(folders: Iterable[Path]) -> None:
    """Remove checkpoints that are no longer kept; only the run's owner may call this."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def commit_checkpoint(temporary: Path, final: Path) -> None:
    """Rename over ``final``; the one before stays as ``.old``, which is read in its place."""
    backup = final.with_name(final.name + _BACKUP_SUFFIX)
    if final.exists():
        shutil.rmtree(backup, ignore_errors=True)
        final.rename(backup)
        failpoint("checkpoint.between-renames")
    temporary.rename(final)
    fsync_dir(final.parent)


def checkpoint_dirs(run_dir: Path) -> list[Path]:
    """Return the checkpoint folders, newest first; a replaced one after its replacement."""
    matches = []
    for folder in run_dir.glob("ckpt-*"):
        if match := _CHECKPOINT_NAME.fullmatch(folder.name):
            matches.append((int(match[1]), match[2] is None, folder))
    return [folder for *_, folder in sorted(matches, reverse=True)]


def superseded(run_dir: Path, written: Path, best_step: int | None) -> tuple[Path, ...]:
    """Return what need not be kept beside the one just written, the one before, and their best.

    The one before may be gone back to, and then its own best is wanted, not the newer one.
    """
    folders = checkpoint_dirs(run_dir)
    backups = [folder for folder in folders if folder.suffix == _BACKUP_SUFFIX and folder.with_suffix("") in folders]
    others = [folder for folder in folders if folder not in backups and folder != written]
    kept, older = others[: _KEEP_LAST - 1], others[_KEEP_LAST - 1 :]
    best = {checkpoint_dir(run_dir, step) for step in (best_step, *map(_best_step, kept)) if step}
    return (*backups, *(folder for folder in older if folder not in best))


def _best_step(folder: Path) -> int | None:
    try:
        best_step: int | None = read_manifest(folder)["best_step"]
    except DataError:
        return None  # nobody will go back to it
    return best_step
