"""The checkpoint folders of one run: their names, which are kept, and how one is put in place."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from lsqctl.errors import DataError
from lsqctl.failpoint import failpoint
from lsqctl.training.durable_file import sync_folder
from lsqctl.training.manifest import manifest_sha256, read_manifest

_NAME = re.compile(r"ckpt-(\d{8,})(\.old)?")
_KEPT = 2


def folder_of(run_dir: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies, once it is complete."""
    return run_dir / f"ckpt-{step:08d}"


def remove(folders: Iterable[Path]) -> None:
    """Remove checkpoints that are no longer kept; only the run's owner may call this."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(run_dir: Path, recorded: Collection[str] | None = None) -> None:
    """Remove what dead attempts left half done; only the run's owner may call this.

    ``recorded`` holds the manifests' sha256 that the caller knows of, when it keeps books. Any
    other checkpoint has its name but no row: the metrics up to it went with the attempt, so a run
    that went on from it would miss them. A damaged one stays, to be complained of.
    """
    remove(run_dir.glob("ckpt.tmp.*"))
    if recorded is not None:
        remove(one for one in checkpoint_folders(run_dir) if _intact(one) not in {None, *recorded})


def put_in_place(temporary: Path, final: Path) -> None:
    """Rename over ``final``; the one before stays as ``.old``, which is read in its place."""
    old = final.with_name(f"{final.name}.old")
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


def replaced(run_dir: Path, best_step: int | None) -> tuple[Path, ...]:
    """Return what need not be kept beside the last two and the best."""
    found = checkpoint_folders(run_dir)
    old = [one for one in found if one.suffix == ".old" and one.with_suffix("") in found]
    kept = [one for one in found if one not in old]
    best = None if best_step is None else folder_of(run_dir, best_step)
    return (*old, *(one for one in kept[_KEPT:] if one != best))


def _intact(folder: Path) -> str | None:
    """Return the sha256 of a manifest that has its own, else None."""
    try:
        read_manifest(folder)
        return manifest_sha256(folder)
    except DataError:
        return None
