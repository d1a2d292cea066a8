"""The list of a checkpoint's files with their sizes and sha256, and the bytes that match it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lsqctl.errors import DataError

MANIFEST_SCHEMA = 1
MANIFEST_NAME = "manifest.json"


def manifest_sha256(folder: Path) -> str:
    """Return the sha256 of a checkpoint's manifest, which holds those of all files."""
    return hashlib.sha256(_read_bytes(folder / MANIFEST_NAME)).hexdigest()


def encode_manifest(body: Mapping[str, Any]) -> bytes:
    """Return the manifest with a hash of itself, so that no bit of it can flip unseen."""
    return json.dumps({**body, "self_sha256": _body_sha256(body)}, sort_keys=True).encode()


def _body_sha256(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's manifest; raises DataError when a bit of it is not as written."""
    path = folder / MANIFEST_NAME
    data = _read_bytes(path)
    try:
        manifest = json.loads(data)
        body = {key: value for key, value in manifest.items() if key != "self_sha256"}
    except (ValueError, AttributeError):
        raise DataError(f"{path} is damaged") from None
    if encode_manifest(body) != data:
        actual, expected = _body_sha256(body), manifest.get("self_sha256")
        raise DataError(f"{path} is damaged: its own sha256 is {actual}, it says {expected}")
    if body["schema"] != MANIFEST_SCHEMA:
        raise DataError(f"{path} has schema {body['schema']}; this lsqctl reads {MANIFEST_SCHEMA}")
    return body


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def read_verified(folder: Path, manifest: Mapping[str, Any], name: str) -> bytes:
    """Return a file's bytes after checking these very bytes; raises DataError naming the file."""
    data, expected = _read_bytes(folder / name), manifest["files"][name]
    if len(data) != expected["size"]:
        raise DataError(f"{folder / name} has {len(data)} bytes instead of {expected['size']}")
    if (actual_sha256 := hashlib.sha256(data).hexdigest()) != expected["sha256"]:
        path, expected_sha256 = folder / name, expected["sha256"]
        raise DataError(f"{path} is damaged: its sha256 is {actual_sha256}, the manifest says {expected_sha256}")
    return data
