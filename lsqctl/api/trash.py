"""The trash of a workspace: removed runs, each whole in a folder of its own, until it is emptied.

``trash/ID/rows.jsonl`` holds all that the database had of a run, ``trash/ID/files`` is its folder.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsqctl.api.outfile import write_whole
from lsqctl.api.remove import Removal, folder_of, remove_tree, size_of
from lsqctl.errors import NotFound, StoreError, UsageError, did_you_mean
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.store import Store
    from lsqctl.store.trash import Rows

_ROWS, _FILES = "rows.jsonl", "files"
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Buried:
    """One run in the trash, and the bytes that emptying it would free."""

    id: str
    name: str
    seed: int
    state: str
    removed_at: datetime
    size_bytes: int


def bury(
    store: Store, settings: Settings, planned: Sequence[Removal], *, force: bool = False
) -> None:
    """Move runs to the trash: first their rows, in one transaction, then their folders.

    Raises IllegalTransition for a running run and for one that others need, with nothing moved,
    and StoreError where the trash cannot be written.
    """
    store.remove([one.run.id for one in planned], force=force, keep=partial(_keep, settings))
    for one in planned:
        if one.folder:
            _move(one.folder, settings.trash_dir / one.run.id / _FILES)


def buried(settings: Settings, *, older_than: float = 0.0) -> list[Buried]:
    """Return what has been in the trash for ``older_than`` seconds, the newest first."""
    limit = datetime.now(UTC) - timedelta(seconds=older_than)
    found = [_described(path.parent) for path in settings.trash_dir.glob(f"*/{_ROWS}")]
    old = [one for one in found if one.removed_at <= limit]
    return sorted(old, key=lambda one: (one.removed_at, one.id), reverse=True)


def restore(store: Store, settings: Settings, references: Sequence[str]) -> list[Buried]:
    """Put runs back as they were, all of them or none; return them.

    ``references`` are ids, unique beginnings of ids, or names. Raises NotFound, UsageError for an
    ambiguous one, and what ``Store.restore`` raises.
    """
    there = buried(settings)
    wanted = {one.id: one for one in (_resolve(text, there) for text in references)}
    rows = {run_id: _read(settings.trash_dir / run_id / _ROWS) for run_id in wanted}
    moved: list[str] = []
    try:
        for run_id in wanted:  # first: a row without its files would promise what is not there
            if _bring_back(settings, run_id):
                moved.append(run_id)
        store.restore(list(rows.values()))
    except BaseException:
        for run_id in moved:
            _move(settings.run_dir(run_id), settings.trash_dir / run_id / _FILES)
        raise
    for run_id in wanted:
        remove_tree(settings.trash_dir / run_id)
    return list(wanted.values())


def _bring_back(settings: Settings, run_id: str) -> bool:
    """Move a run's folder back; False where the trash has none."""
    files = settings.trash_dir / run_id / _FILES
    if not (files.is_symlink() or files.exists()):
        return False
    if folder_of(settings, run_id):
        raise StoreError(f"{settings.run_dir(run_id)} is in the way; move it elsewhere")
    _move(files, settings.run_dir(run_id))
    return True


def empty(settings: Settings, some: Sequence[Buried]) -> None:
    """Remove these from the trash, for good.  Raises StoreError."""
    for one in some:
        remove_tree(settings.trash_dir / one.id)


def _resolve(reference: str, there: Sequence[Buried]) -> Buried:
    same = [one for one in there if reference in (one.id, one.name)]
    found = same or [one for one in there if one.id.startswith(reference)]
    if len(found) > 1:
        ids = ", ".join(one.id for one in found[:5])
        raise UsageError(
            f"`{reference}` is {len(found)} runs in the trash: {ids}; name one by its id"
        )
    if not found:
        known = [*(one.id for one in there), *(one.name for one in there)]
        raise NotFound(
            f"no run in the trash is called `{reference}`{did_you_mean(reference, known)}; "
            "`lsqctl runs trash` lists them"
        )
    return found[0]


def _keep(settings: Settings, run_id: str, rows: Rows) -> None:
    """Write a run's rows where they outlive the transaction that removes them."""
    folder = settings.trash_dir / run_id
    (run,) = rows["runs"]
    kept = ({"table": name, **row} for name, some in rows.items() for row in some)
    body = b"".join(map(_line, kept))
    head = {key: run[key] for key in ("id", "name", "seed", "state")}
    head["removed_at"] = datetime.now(UTC)
    head["sha256"] = sha256(body).hexdigest()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror}") from None
    write_whole(folder / _ROWS, _line(head) + body, force=True)


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, default=_spelled).encode("ascii") + b"\n"


def _spelled(value: object) -> object:
    if isinstance(value, datetime):
        return {"time": value.isoformat()}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode("ascii")}
    raise TypeError(f"{type(value).__name__} is not kept")


_READ: Mapping[str, Callable[[str], Any]] = {
    "time": datetime.fromisoformat,
    "bytes": base64.b64decode,
}


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        ((kind, text),) = value.items()
        return _READ[kind](text)
    return value


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows that ``_keep`` was given; StoreError for a file that is damaged."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        if json.loads(head)["sha256"] != sha256(body).hexdigest():
            raise ValueError("its bytes are not those that were written")
        for line in map(json.loads, body.splitlines()):
            table = line.pop("table")
            rows[table].append({key: _value(value) for key, value in line.items()})
    except _DAMAGED as error:
        raise StoreError(f"{path} cannot be read back: {error}") from None
    return rows


def _described(folder: Path) -> Buried:
    try:
        with (folder / _ROWS).open("rb") as file:
            head = {key: _value(value) for key, value in json.loads(file.readline()).items()}
        del head["sha256"]
        return Buried(**head, size_bytes=size_of(folder))
    except _DAMAGED as error:
        raise StoreError(f"{folder / _ROWS} cannot be read: {error}") from None


def _move(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if target.is_symlink() or target.exists():
            remove_tree(target)
        shutil.move(source, target)
    except OSError as error:
        raise StoreError(f"cannot move {source} to {target}: {error.strerror or error}") from None
