"""Which files of workspaces this user trusts as plugins: their sha256, recorded outside of them.

A workspace may be shared, copied or planted, and a file in it is code. So what may be imported is
recorded in the user's own folder for settings, one record a file, and nowhere in the workspace.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lsqctl.atomic_write import replace_file
from lsqctl.errors import PluginError
from lsqctl.ownership import check_private, make_private_dir, read_regular
from lsqctl.settings import config_dir

_FOLDER = "trusted-plugins"


def trust(path: Path) -> str:
    """Record that a file, as it is now, may be imported; return its sha256.

    Raises PluginError where it cannot be read, StoreError where others may write to it or to the
    records.
    """
    data = _read(path)
    sha256 = hashlib.sha256(data).hexdigest()
    folder = config_dir() / _FOLDER
    for private in (folder.parent, folder):
        make_private_dir(private)
    record = json.dumps({"path": str(path.resolve()), "sha256": sha256}).encode()
    replace_file(_record_path(path), record)
    return sha256


def trusted_sha256(path: Path) -> str | None:
    """Return the sha256 that was recorded for a file, None for one that nobody trusted.

    Raises StoreError where others may write to the records, PluginError for a damaged one.
    """
    record = _record_path(path)
    check_private((config_dir(), record.parent, record), advice="or remove it")
    try:
        entry = json.loads(read_regular(record))
        return str(entry["sha256"]) if entry["path"] == str(path.resolve()) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise PluginError(
            f"{record} is damaged; remove it, then `lsqctl plugins trust {path}`"
        ) from None


def read_trusted(path: Path) -> bytes:
    """Return the bytes of a file, which are those that were trusted.

    What is returned is what was hashed: the file may change right after. Raises PluginError for a
    file that is not trusted or has changed, StoreError where others may write to it.
    """
    data = _read(path)
    recorded = trusted_sha256(path)
    if recorded == hashlib.sha256(data).hexdigest():
        return data
    state = "has changed since it was trusted" if recorded else "is not trusted"
    raise PluginError(
        f"the plugin {path} {state}: it is code that would run as you; read it, then "
        f"`lsqctl plugins trust {path}`"
    )


def _read(path: Path) -> bytes:
    check_private((path.parent, path), advice="for what is in it would run as you")
    try:
        return read_regular(path)
    except OSError as error:
        raise PluginError(f"the plugin {path} cannot be read: {error.strerror}") from None


def _record_path(path: Path) -> Path:
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return config_dir() / _FOLDER / f"{name}.json"
