"""What ships with lsqctl: folders ``recipes/`` and ``db/``, and its code, by one sha256."""

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
    in_wheel = _PACKAGE / "_bundled" / folder
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / folder


def package_root() -> Path:
    """Return the folder of the ``lsqctl`` package itself."""
    return _PACKAGE


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_sha256() -> str:
    """Return one digest over every Python file of the package, names included."""
    digest = hashlib.sha256()
    root = package_root()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0")
        digest.update(path.read_bytes())
    return digest.hexdigest()
