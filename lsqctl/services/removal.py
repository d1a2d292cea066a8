"""Remove runs, for good or into the trash, and bring them back; no link is followed.

A removed run's rows stay in the database; its folder moves to ``trash/ID/files`` of the workspace.
Older versions kept the rows as files in the trash, ``trash/ID/rows.jsonl``: a first line with the
checksum of the rest and the time of the removal, then one line a row, with its table. Those rows go
into the database, and the file goes.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.atomic_write import half_made
from lsqctl.errors import NotFound, StoreError, UsageError
from lsqctl.ownership import read_regular
from lsqctl.retry import retry
from lsqctl.run import Run, RunState
from lsqctl.settings import Settings
from lsqctl.text import did_you_mean

if TYPE_CHECKING:
    from lsqctl.store import Store
    from lsqctl.store.soft_delete import RunRows


_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError)
_DECODERS: Mapping[str, Callable[[str], object]] = {
    "time": datetime.fromisoformat,
    "bytes": base64.b64decode,
}


def adopt_old_trash(store: Store, trash_dir: Path) -> None:
    """Take every file of rows into the database, all or none; StoreError for a damaged one."""
    paths = sorted(trash_dir.glob("*/rows.jsonl"))
    if not paths:
        return
    store.trash.adopt([_read(path) for path in paths])
    for path in paths:
        path.unlink()


def _read(path: Path) -> tuple[RunRows, datetime]:
    rows: dict[str, list[dict[str, object]]] = defaultdict(list)
    try:
        first_line, _, body = read_regular(path).partition(b"\n")
        head = json.loads(first_line)
        if head["sha256"] != sha256(body).hexdigest():
            raise ValueError("its bytes are not those that were written")
        for line in map(json.loads, body.splitlines()):
            table = line.pop("table")
            rows[table].append({key: _decode(value) for key, value in line.items()})
        removed_at = _decode(head["removed_at"])
        if not isinstance(removed_at, datetime):
            raise ValueError("it does not say when the run was removed")
    except _READ_ERRORS as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
    return rows, removed_at


def _decode(value: object) -> object:
    if isinstance(value, dict):
        ((kind, text),) = value.items()
        return _DECODERS[kind](text)
    return value


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
    store.trash.purge([removal.run.id for removal in planned], force=force)
    for removal in planned:
        if removal.folder:
            remove_tree(removal.folder)


def existing_run_dir(settings: Settings, run_id: str) -> Path | None:
    """Return a run's folder, if there is one here; an id that could lead elsewhere has none."""
    if not _SAFE_ID.fullmatch(run_id):
        return None
    folder = settings.run_dir(run_id)
    return folder if folder.is_symlink() or folder.exists() else None


_REMOVAL_TRIES = 100  # each ends where another process was faster with one file more


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it; of a link only the link itself.  Raises StoreError.

    What another process removes at the same time is no error.
    """

    def delay_after(_: FileNotFoundError, failures: int) -> float | None:
        return 0.0 if failures < _REMOVAL_TRIES else None

    try:
        retry(partial(_remove, path), FileNotFoundError, delay_after)
    except OSError as error:
        raise StoreError(f"cannot remove {error.filename or path}: {error.strerror}") from None


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def tree_size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; links count as nothing."""
    if path.is_symlink():
        return 0
    total = path.stat().st_size if path.is_file() else 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a run at work may sweep its own
                total += (Path(folder) / name).lstat().st_size
    return total


_FILES = "files"


@dataclass(frozen=True, slots=True)
class TrashedRun:
    """One run in the trash, and the bytes that emptying it would free."""

    id: str
    name: str
    seed: int
    state: RunState
    removed_at: datetime
    size_bytes: int


def move_to_trash(
    store: Store, settings: Settings, planned: Sequence[Removal], *, force: bool = False
) -> None:
    """Move runs to the trash: first their rows are marked, in one transaction, then their folders.

    Raises IllegalTransition for a running run and for one that others need, with nothing moved,
    and StoreError where the trash cannot be written.
    """
    store.trash.remove([removal.run.id for removal in planned], force=force)
    for removal in planned:
        if removal.folder:
            _move(removal.folder, settings.trash_dir / removal.run.id / _FILES)


def list_trash(
    store: Store, settings: Settings, *, older_than: float = 0.0
) -> Sequence[TrashedRun]:
    """Return what has been in the trash for ``older_than`` seconds, the newest first."""
    adopt_old_trash(store, settings.trash_dir)
    return [
        TrashedRun(
            run.id,
            run.name,
            run.seed,
            run.state,
            run.removed_at,
            size_bytes=tree_size(settings.trash_dir / run.id),
        )
        for run in store.trash.list(older_than=older_than)
    ]


def restore_runs(store: Store, settings: Settings, run_refs: Sequence[str]) -> Sequence[TrashedRun]:
    """Put runs back as they were, all of them or none; return them.

    ``run_refs`` are ids, unique beginnings of ids, or names. Raises NotFound, UsageError for an
    ambiguous one, and what ``store.trash.restore`` raises.
    """
    trashed = list_trash(store, settings)
    chosen = [_resolve_trashed(run_ref, trashed) for run_ref in run_refs]
    by_id = {trashed_run.id: trashed_run for trashed_run in chosen}
    moved: list[str] = []
    try:
        for run_id in by_id:  # first: a row without its files would promise what is not there
            if _restore_folder(settings, run_id):
                moved.append(run_id)
        store.trash.restore(list(by_id))
    except BaseException:
        for run_id in moved:
            _move(settings.run_dir(run_id), settings.trash_dir / run_id / _FILES)
        raise
    for run_id in by_id:
        remove_tree(settings.trash_dir / run_id)
    return list(by_id.values())


def _restore_folder(settings: Settings, run_id: str) -> bool:
    """Move a run's folder back; False where the trash has none."""
    files = settings.trash_dir / run_id / _FILES
    if not (files.is_symlink() or files.exists()):
        return False
    if existing_run_dir(settings, run_id):
        raise StoreError(f"{settings.run_dir(run_id)} is in the way; move it elsewhere")
    _move(files, settings.run_dir(run_id))
    return True


def empty_trash(store: Store, settings: Settings, trashed: Sequence[TrashedRun]) -> None:
    """Remove these from the trash, for good: their rows, then their folders.

    Raises IllegalTransition where one that stays in the trash starts from them; StoreError.
    """
    store.trash.purge([run.id for run in trashed], force=True)
    for run in trashed:
        remove_tree(settings.trash_dir / run.id)


def _resolve_trashed(run_ref: str, trashed: Sequence[TrashedRun]) -> TrashedRun:
    exact = [run for run in trashed if run_ref in (run.id, run.name)]
    matches = exact or [run for run in trashed if run.id.startswith(run_ref)]
    if len(matches) > 1:
        ids = ", ".join(run.id for run in matches[:5])
        raise UsageError(
            f"`{run_ref}` is {len(matches)} runs in the trash: {ids}; name one by its id"
        )
    if not matches:
        names = [*(run.id for run in trashed), *(run.name for run in trashed)]
        raise NotFound(
            f"no run in the trash is called `{run_ref}`{did_you_mean(run_ref, names)}; "
            "`lsqctl runs trash` lists them"
        )
    return matches[0]


def _move(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if target.is_symlink() or target.exists():
            remove_tree(target)
        if source.is_symlink() or source.stat().st_dev == target.parent.stat().st_dev:
            shutil.move(source, target)
        else:
            _move_to_another_file_system(source, target)
    except OSError as error:
        raise StoreError(f"cannot move {source} to {target}: {error.strerror or error}") from None


def _move_to_another_file_system(source: Path, target: Path) -> None:
    """Move a folder so that neither name ever stands for a part of it, wherever it is cut off."""
    with half_made(target) as copy:
        shutil.copytree(source, copy, symlinks=True)
        copy.rename(target)
    with half_made(source) as aside:
        source.rename(aside)
