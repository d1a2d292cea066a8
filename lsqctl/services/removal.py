"""Remove runs, for good or into the workspace's trash, and bring them back; no link is followed."""

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
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsqctl.errors import NotFound, StoreError, UsageError, did_you_mean
from lsqctl.run import Run
from lsqctl.services.atomic_write import write_atomic
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.store import Store
    from lsqctl.store.soft_delete import RunRows

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
    store.trash.remove([removal.run.id for removal in planned], force=force)
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


_ROWS, _FILES = "rows.jsonl", "files"
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class TrashedRun:
    """One run in the trash, and the bytes that emptying it would free."""

    id: str
    name: str
    seed: int
    state: str
    removed_at: datetime
    size_bytes: int


def move_to_trash(
    store: Store, settings: Settings, planned: Sequence[Removal], *, force: bool = False
) -> None:
    """Move runs to the trash: first their rows, in one transaction, then their folders.

    Raises IllegalTransition for a running run and for one that others need, with nothing moved,
    and StoreError where the trash cannot be written.
    """
    store.trash.remove(
        [removal.run.id for removal in planned], force=force, keep=partial(_write_rows, settings)
    )
    for removal in planned:
        if removal.folder:
            _move(removal.folder, settings.trash_dir / removal.run.id / _FILES)


def list_trash(settings: Settings, *, older_than: float = 0.0) -> list[TrashedRun]:
    """Return what has been in the trash for ``older_than`` seconds, the newest first."""
    cutoff = datetime.now(UTC) - timedelta(seconds=older_than)
    trashed = [_read_trashed_run(path.parent) for path in settings.trash_dir.glob(f"*/{_ROWS}")]
    expired = [run for run in trashed if run.removed_at <= cutoff]
    return sorted(expired, key=lambda run: (run.removed_at, run.id), reverse=True)


def restore_runs(store: Store, settings: Settings, run_refs: Sequence[str]) -> list[TrashedRun]:
    """Put runs back as they were, all of them or none; return them.

    ``run_refs`` are ids, unique beginnings of ids, or names. Raises NotFound, UsageError for an
    ambiguous one, and what ``Store.restore`` raises.
    """
    trashed = list_trash(settings)
    by_id = {
        trashed_run.id: trashed_run
        for trashed_run in (_resolve_trashed(run_ref, trashed) for run_ref in run_refs)
    }
    rows = {run_id: _read_rows(settings.trash_dir / run_id / _ROWS) for run_id in by_id}
    moved: list[str] = []
    try:
        for run_id in by_id:  # first: a row without its files would promise what is not there
            if _restore_folder(settings, run_id):
                moved.append(run_id)
        store.trash.restore(list(rows.values()))
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


def empty_trash(settings: Settings, trashed: Sequence[TrashedRun]) -> None:
    """Remove these from the trash, for good.  Raises StoreError."""
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


def _write_rows(settings: Settings, run_id: str, rows: RunRows) -> None:
    """Write a run's rows where they outlive the transaction that removes them."""
    folder = settings.trash_dir / run_id
    (run,) = rows["runs"]
    records = ({"table": name, **row} for name, table_rows in rows.items() for row in table_rows)
    body = b"".join(map(_json_line, records))
    head = {key: run[key] for key in ("id", "name", "seed", "state")}
    head["removed_at"] = datetime.now(UTC)
    head["sha256"] = sha256(body).hexdigest()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror}") from None
    write_atomic(folder / _ROWS, _json_line(head) + body, force=True)


def _json_line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, default=_encode_value).encode("ascii") + b"\n"


def _encode_value(value: object) -> object:
    if isinstance(value, datetime):
        return {"time": value.isoformat()}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode("ascii")}
    raise TypeError(f"{type(value).__name__} is not kept")


_DECODERS: Mapping[str, Callable[[str], Any]] = {
    "time": datetime.fromisoformat,
    "bytes": base64.b64decode,
}


def _decode_value(value: Any) -> Any:
    if isinstance(value, dict):
        ((kind, text),) = value.items()
        return _DECODERS[kind](text)
    return value


def _read_rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows that ``_write_rows`` was given; StoreError for a file that is damaged."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        if json.loads(head)["sha256"] != sha256(body).hexdigest():
            raise ValueError("its bytes are not those that were written")
        for line in map(json.loads, body.splitlines()):
            table = line.pop("table")
            rows[table].append({key: _decode_value(value) for key, value in line.items()})
    except _READ_ERRORS as error:
        raise StoreError(f"{path} cannot be read back: {error}") from None
    return rows


def _read_trashed_run(folder: Path) -> TrashedRun:
    try:
        with (folder / _ROWS).open("rb") as file:
            head = {key: _decode_value(value) for key, value in json.loads(file.readline()).items()}
        del head["sha256"]
        return TrashedRun(**head, size_bytes=tree_size(folder))
    except _READ_ERRORS as error:
        raise StoreError(f"{folder / _ROWS} cannot be read: {error}") from None


def _move(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if target.is_symlink() or target.exists():
            remove_tree(target)
        shutil.move(source, target)
    except OSError as error:
        raise StoreError(f"cannot move {source} to {target}: {error.strerror or error}") from None
