"""The checkpoint folders of one run: their names, which are kept, and how one is put in place."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from lsqctl.errors import DataError
from lsqctl.failpoint import failpoint
from lsqctl.training.durable_file import sync_folder
from lsqctl.training.manifest import read_manifest

_ASIDE = ".old"  # a checkpoint while another of its step takes its place
_NAME = re.compile(r"ckpt-(\d{8,})(\.old)?")
_KEPT = 2


def folder_of(run_dir: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies, once it is complete."""
    return run_dir / f"ckpt-{step:08d}"


def at_once(work: Callable[[], None]) -> None:
    """Do the work: there is no other owner to fear."""
    work()


def remove(folders: Iterable[Path]) -> None:
    """Remove checkpoints that are no longer kept; only the run's owner may call this."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(temporary: Path, final: Path) -> None:
    """Rename over ``final``; the one before stays as ``.old``, which is read in its place."""
    old = final.with_name(final.name + _ASIDE)
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        failpoint("checkpoint.between-renames")
    temporary.rename(final)
    sync_folder(final.parent)


def checkpoint_folders(run_dir: Path) -> list[Path]:
    """Return the checkpoint folders, newest first; a replaced one after its replacement."""
    found = []
    for folder in run_dir.glob("ckpt-*"):
        if match := _NAME.fullmatch(folder.name):
            found.append((int(match[1]), match[2] is None, folder))
    return [folder for *_, folder in sorted(found, reverse=True)]


def replaced(run_dir: Path, written: Path, best_step: int | None) -> tuple[Path, ...]:
    """Return what need not be kept beside the one just written, the one before, and their best.

    The one before may be gone back to, and then its own best is wanted, not the newer one.
    """
    found = checkpoint_folders(run_dir)
    aside = [one for one in found if one.suffix == _ASIDE and one.with_suffix("") in found]
    others = [one for one in found if one not in aside and one != written]
    before, older = others[: _KEPT - 1], others[_KEPT - 1 :]
    best = {folder_of(run_dir, step) for step in (best_step, *map(_best_step, before)) if step}
    return (*aside, *(one for one in older if one not in best))


def _best_step(folder: Path) -> int | None:
    try:
        found: int | None = read_manifest(folder)["best_step"]
    except DataError:
        return None  # nobody will go back to it
    return found
