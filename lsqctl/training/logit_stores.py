"""How teachers' logits lie in a data folder, and which it holds: without reading them, or NumPy."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lsqctl.ownership import open_regular, read_regular
from lsqctl.run import JsonObject

FOLDER = "teachers"  # of the data folder
KEY_DIGITS = 32  # of a store's key: the name of its folder
ABOUT = "about.json"  # of a store: what its logits depend on, and their shape
CHUNK_IMAGES = 250
PARTS = 16  # of a view, at most: so many runs compute it together
HASH_BYTES = 32  # of a chunk; zeros until it is computed


def chunks_of_parts(images: int) -> list[range]:
    """Return the chunks of each part, whose numbers differ by one at most."""
    chunks = -(-images // CHUNK_IMAGES)
    parts = min(PARTS, chunks)
    return [range(part * chunks // parts, (part + 1) * chunks // parts) for part in range(parts)]


def part_name(number: int) -> str:
    """Return the name of a part's file in the folder of its view."""
    return f"part-{number:02d}"


@dataclass(frozen=True, slots=True)
class StoredLogits:
    """One store of a data folder: of what teacher and images, and how many views it holds.

    ``views`` are whole, ``views_in_part`` are those of which a run has computed a part so far.
    """

    path: Path
    about: JsonObject
    views: int
    views_in_part: int
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
        views = [view for view in path.glob("view-*") if view.is_dir()]
        files = [file.stat() for view in views for file in view.iterdir()]
        used_at = max((status.st_mtime for status in files), default=path.stat().st_mtime)
        whole = sum(_is_whole(view, about) for view in views)
        size = sum(status.st_size for status in files)
        used = datetime.fromtimestamp(used_at, UTC)
        found.append(StoredLogits(path, about, whole, len(views) - whole, size, used))
    return found


def _is_whole(view: Path, about: JsonObject) -> bool:
    """Return whether each chunk of a view has its hash; True where the store has no shape."""
    match about.get("shape"):
        case [int(images), int()]:
            parts = enumerate(chunks_of_parts(images))
            return all(_has_hashes(view / part_name(n), len(chunks)) for n, chunks in parts)
        case _:  # a store of before
            return True


def _has_hashes(part: Path, chunks: int) -> bool:
    try:
        with os.fdopen(open_regular(part), "rb") as file:
            if os.fstat(file.fileno()).st_size < chunks * HASH_BYTES:
                return False
            return all(any(file.read(HASH_BYTES)) for _ in range(chunks))
    except OSError:
        return False
