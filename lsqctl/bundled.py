"""Find the folders that ship with lsqctl: ``recipes/`` and ``db/``."""

from __future__ import annotations

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
