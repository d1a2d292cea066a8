"""Find what ships with lsqctl, ``recipes/`` and ``db/``, and tell its code by a digest."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def bundled(folder: str) -> Path:
    """Return the path of a shipped folder, ``"recipes"`` or ``"db"``.

    An installed wheel carries them under ``lsqctl/_bundled``; a checkout has them beside
    ``lsqctl/``.
    """
    inside = _PACKAGE / "_bundled" / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder


def package_root() -> Path:
    """Return the folder of the ``lsqctl`` package itself."""
    return _PACKAGE


@cache
def code_sha256() -> str:
    """Return one digest over every Python file of the package, names included."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(_PACKAGE)).encode() + b"\0")
        digest.update(path.read_bytes())
    return digest.hexdigest()
