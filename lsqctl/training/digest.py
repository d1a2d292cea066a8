"""The sha256 of a file's bytes, and of the package's own code, without torch."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from lsqctl.bundled import package_root


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
