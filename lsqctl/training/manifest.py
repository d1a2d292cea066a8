"""The list of a checkpoint's files with their sizes and sha256, and the bytes that match it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lsqctl.errors import DataError

SCHEMA = 1
MANIFEST = "manifest.json"


def manifest_sha256(folder: Path) -> str:
    """Return the sha256 of a checkpoint's manifest, which holds all the others."""
    return hashlib.sha256(_bytes(folder / MANIFEST)).hexdigest()


def manifest_text(body: Mapping[str, Any]) -> bytes:
    """Return the manifest with a hash of itself, so that no bit of it can flip unseen."""
    return json.dumps({**body, "self_sha256": _own_sha256(body)}, sort_keys=True).encode()


def _own_sha256(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's manifest; raises DataError when a bit of it is not as written."""
    path = folder / MANIFEST
    data = _bytes(path)
    try:
        found = json.loads(data)
        body = {key: value for key, value in found.items() if key != "self_sha256"}
    except (ValueError, AttributeError):
        raise DataError(f"{path} is damaged") from None
    if manifest_text(body) != data:
        own, expected = _own_sha256(body), found.get("self_sha256")
        raise DataError(f"{path} is damaged: its own sha256 is {own}, it says {expected}")
    if body["schema"] != SCHEMA:
        raise DataError(f"{path} has schema {body['schema']}; this lsqctl reads {SCHEMA}")
    return body


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def verified(folder: Path, manifest: Mapping[str, Any], name: str) -> bytes:
    """Return a file's bytes after checking these very bytes; raises DataError naming the file."""
    data, expected = _bytes(folder / name), manifest["files"][name]
    if len(data) != expected["size"]:
        raise DataError(f"{folder / name} has {len(data)} bytes instead of {expected['size']}")
    if (found := hashlib.sha256(data).hexdigest()) != expected["sha256"]:
        path, wanted = folder / name, expected["sha256"]
        raise DataError(f"{path} is damaged: its sha256 is {found}, the manifest says {wanted}")
    return data
