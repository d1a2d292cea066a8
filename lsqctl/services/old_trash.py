"""Rows that lsqctl kept as files in the trash, before removed runs stayed in the database.

``trash/ID/rows.jsonl``: a first line with the checksum of the rest and the time of the removal,
then one line a row, with its table. The rows go into the database, and the file goes.
"""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.errors import StoreError
from lsqctl.ownership import read_regular

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
