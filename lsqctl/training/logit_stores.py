"""Which teachers' logits a data folder holds: listed without reading them, so without NumPy."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

from lsqctl.ownership import read_regular
from lsqctl.run import JsonObject

FOLDER = "teachers"  # of the data folder
KEY_DIGITS = 32  # of a store's key: the name of its folder
ABOUT = "about.json"  # of a store: what its logits depend on


@dataclass(frozen=True, slots=True)
class StoredLogits:
    """One store of a data folder: of what teacher and images, and how many views it holds."""

    path: Path
    about: JsonObject
    views: int
    size_bytes: int
    used_at: datetime  # when a run read or made one of its views


def stored_logits(data_dir: Path) -> list[StoredLogits]:
    """Return the stores of a data folder: those named by a key, with a store's description."""
    found = []
    for path in sorted((data_dir / FOLDER).glob("*")):
        if not re.fullmatch(rf"[0-9a-f]{{{KEY_DIGITS}}}", path.name):
            continue
        try:
            about = json.loads(read_regular(path / ABOUT))
        except (OSError, ValueError):
            continue
        if not isinstance(about, dict):
            continue
        views = list(path.glob("view-*"))
        parts = [[*view.iterdir()] if view.is_dir() else [view] for view in views]
        files = [file.stat() for file in chain.from_iterable(parts)]
        used_at = max((status.st_mtime for status in files), default=path.stat().st_mtime)
        size = sum(status.st_size for status in files)
        used = datetime.fromtimestamp(used_at, UTC)
        found.append(StoredLogits(path, about, len(views), size, used))
    return found
