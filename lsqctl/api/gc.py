"""Find and remove what nothing needs: old checkpoints, half-written ones, folders without a run.

Kept are: everything of unfinished runs, the newest checkpoints of finished ones, the best, and
those that a result names.  Files of people are never touched: only names that lsqctl gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lsqctl.api.remove import remove_tree, size_of
from lsqctl.run import UNFINISHED
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.store import Store
    from lsqctl.store.housekeeping import Housed

Kind = Literal["checkpoint", "half-written", "no run"]
_CHECKPOINT = re.compile(r"ckpt-(\d{8,})(?:\.old)?")
_TEMPORARY = re.compile(r"ckpt\.tmp\.([0-9a-f]+)")
_RUN_FOLDER = re.compile(r"[2-9bcdfghjkmnpqrstvwxz]{8}")


@dataclass(frozen=True, slots=True)
class Rubbish:
    """One folder that may go, of which run, and why."""

    run_id: str
    path: Path
    kind: Kind
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Found:
    """What may go; ``strange`` counts run folders of which the database knows none at all."""

    rubbish: tuple[Rubbish, ...]
    strange: int = 0


def find_rubbish(
    store: Store, settings: Settings, *, keep_last: int = 1, older_than: float = 0.0
) -> Found:
    """Return what may go, by run; of runs that ended less than ``older_than`` seconds ago nothing.

    ``keep_last`` newest checkpoints of each finished run stay, at least one: a failed run is
    tried again from it, and children start from a succeeded one's. Where the database knows none
    of the folders it is probably another workspace's, and none of them may go.
    """
    # the disk before the rows: what a run or an attempt made since is never taken for nobody's
    folders = _run_folders(settings.runs_dir)
    half_written = {folder: sorted(folder.glob("ckpt.tmp.*")) for folder in folders}
    known = store.housed([folder.name for folder in folders])
    before = datetime.now(UTC) - timedelta(seconds=older_than)
    found: list[Rubbish] = []
    for folder in folders:
        housed = known.get(folder.name)
        if housed is not None:
            found += _dead(folder.name, half_written[folder], housed.fence)
            found += _old(folder, housed, keep_last=max(1, keep_last), before=before)
        elif (settings.trash_dir / folder.name).exists():
            continue  # on its way into the trash, or out of it
        elif known and _untouched_since(folder, before):
            found.append(Rubbish(folder.name, folder, "no run", size_of(folder)))
    return Found(tuple(found), strange=0 if known else len(folders))


def remove_rubbish(store: Store, rubbish: Sequence[Rubbish]) -> list[Rubbish]:
    """Remove what was found and return what went; a run that was tried again keeps its own."""
    gone = []
    for one in rubbish:
        if one.kind == "no run" and store.housed([one.run_id]):
            continue
        if one.kind == "checkpoint" and not store.forget_checkpoints(one.run_id, [one.path.name]):
            continue
        remove_tree(one.path)
        gone.append(one)
    return gone


def _run_folders(runs_dir: Path) -> list[Path]:
    if not runs_dir.is_dir():
        return []
    return sorted(
        path
        for path in runs_dir.iterdir()
        if _RUN_FOLDER.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    )


def _dead(run_id: str, half_written: Sequence[Path], fence: str | None) -> Iterator[Rubbish]:
    for path in half_written:
        match = _TEMPORARY.fullmatch(path.name)
        if match and match[1] != fence:
            yield Rubbish(run_id, path, "half-written", size_of(path))


def _old(folder: Path, housed: Housed, *, keep_last: int, before: datetime) -> Iterator[Rubbish]:
    if housed.state in UNFINISHED or housed.finished_at is None or housed.finished_at > before:
        return
    kept = set(housed.needed)
    newest = sorted(_checkpoints(folder), key=_age, reverse=True)
    kept |= {path.name for path in newest[:keep_last]}
    for path in reversed(newest):
        if path.name not in kept:
            yield Rubbish(folder.name, path, "checkpoint", size_of(path))


def _checkpoints(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("ckpt-*") if _CHECKPOINT.fullmatch(path.name)]
    return [path for path in found if path.is_dir() and not path.is_symlink()]


def _age(path: Path) -> tuple[int, bool]:
    match = _CHECKPOINT.fullmatch(path.name)
    assert match is not None
    return int(match[1]), not path.name.endswith(".old")


def _untouched_since(folder: Path, before: datetime) -> bool:
    return datetime.fromtimestamp(folder.lstat().st_mtime, UTC) <= before
