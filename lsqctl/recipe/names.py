"""What a recipe may be called."""

from __future__ import annotations

import re

NAME_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def is_valid_name(text: str) -> bool:
    """Return whether ``text`` can name a recipe: at most four safe parts joined by ``/``."""
    parts = text.split("/")
    return len(parts) <= 4 and all(
        NAME_PART.fullmatch(part) and ".." not in part and not _WINDOWS_DEVICE.fullmatch(part)
        for part in parts
    )
