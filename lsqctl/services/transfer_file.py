"""The file of exported runs: a zip whose manifest has the size and sha256 of every other member.

Beside ``manifest.json``, ``runs/ID.json`` holds a run's rows by table, ``files/ID/…`` its logs
and checkpoints. What is read may be anybody's: names, sizes and hashes are checked before anything
of it is used, and nothing is unpacked by a path that the file gives.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from lsqctl.errors import DataError, NotFound
from lsqctl.ownership import open_regular
from lsqctl.run import RUN_ID, JsonObject
from lsqctl.text import sanitize

FORMAT = 1
_MANIFEST = "manifest.json"
_CHUNK = 1 << 20
_MAX_ROWS_BYTES = 512 << 20  # of one run: they are held in memory
_MAX_MANIFEST_BYTES = 64 << 20
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_FILE = rf"{_PART}(?:/{_PART})?"
_MEMBER = re.compile(rf"runs/({RUN_ID})\.json|files/({RUN_ID})/({_FILE})")
_UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, RecursionError),
    *(zipfile.BadZipFile, zlib.error, RuntimeError),  # the last: encrypted, or packed as by nobody
)


def is_file_name(name: str) -> bool:
    """Return whether a file of this name, in a run's folder, can be taken in again."""
    return re.fullmatch(_FILE, name) is not None


class ExportWriter:
    """Writes the members of one file, and at the end its manifest."""

    def __init__(self, file: IO[bytes], head: Mapping[str, object]) -> None:
        self._head = head
        self._members: dict[str, JsonObject] = {}
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the manifest, without which a file is none, unless something failed."""
        try:
            if kind is None:
                manifest = {**self._head, "format": FORMAT, "files": self._members}
                self._zip.writestr(_MANIFEST, json.dumps(manifest))
        finally:
            self._zip.close()

    def add_rows(self, run_id: str, rows: Mapping[str, object]) -> None:
        """Add the rows of a run."""
        data = json.dumps(rows, default=_encode, allow_nan=False).encode()
        name = f"runs/{run_id}.json"
        self._members[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self._zip.writestr(name, data)

    def add_file(self, run_id: str, path: Path, name: str) -> None:
        """Add a file of a run's folder; a link is not followed.  Raises OSError."""
        member, digest, size = f"files/{run_id}/{name}", hashlib.sha256(), 0
        with open(open_regular(path), "rb") as source, self._zip.open(member, "w") as target:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                target.write(chunk)
        self._members[member] = {"size": size, "sha256": digest.hexdigest()}


def _encode(value: object) -> object:
    if isinstance(value, datetime):
        return {"time": value.isoformat()}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} cannot be exported")


def _decode(data: JsonObject) -> object:
    if data.keys() == {"time"}:
        return datetime.fromisoformat(data["time"])
    if data.keys() == {"bytes"}:
        return base64.b64decode(data["bytes"], validate=True)
    return data


@dataclass
class ExportReader:
    """A file that was checked as far as it can be without reading all of it."""

    path: Path
    manifest: JsonObject
    rows_of: Mapping[str, str]  # by run id: the member
    files_of: Mapping[str, Mapping[str, str]]  # by run id: name in the folder to member
    _zip: zipfile.ZipFile = field(repr=False)

    def size_of(self, run_id: str) -> int:
        """Return the bytes of a run's files, unpacked."""
        members = self.files_of.get(run_id, {}).values()
        return sum(self.manifest["files"][member]["size"] for member in members)

    def read_rows(self, run_id: str) -> Mapping[str, list[JsonObject]]:
        """Return the rows of a run by table.  Raises DataError where its bytes are not its own."""
        data = b"".join(self._read(self.rows_of[run_id]))
        try:
            rows = json.loads(data, object_hook=_decode)
            if isinstance(rows, dict) and all(map(_is_table, rows.values())):
                return rows
        except _UNREADABLE:
            pass
        raise DataError(f"{self.path}: {self.rows_of[run_id]} holds no rows of a run")

    def write_file(self, run_id: str, name: str, target: IO[bytes]) -> None:
        """Write a file of a run.  Raises DataError where its bytes are not its own, and OSError."""
        for chunk in self._read(self.files_of[run_id][name]):
            target.write(chunk)

    def _read(self, member: str) -> Iterator[bytes]:
        expected, digest, size = self.manifest["files"][member], hashlib.sha256(), 0
        damaged = DataError(f"{self.path} is damaged: {member} is not as it was written")
        try:
            with self._zip.open(member) as source:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    if size > expected["size"]:
                        raise damaged
                    yield chunk
        except _UNREADABLE:
            raise damaged from None
        if (size, digest.hexdigest()) != (expected["size"], expected["sha256"]):
            raise damaged

    def close(self) -> None:
        """Close the file."""
        self._zip.close()


def _is_table(rows: object) -> bool:
    return isinstance(rows, list) and all(isinstance(row, dict) for row in rows)


def open_export(path: Path) -> ExportReader:
    """Return a file of exported runs, its manifest and the names of its members checked.

    Raises NotFound, and DataError for any other file, a newer format, and names that lead
    elsewhere.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise DataError(f"{path} is no file of `lsqctl runs export`: it is no plain file")
    try:
        opened = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    except _UNREADABLE as error:
        raise DataError(f"{path} is no file of `lsqctl runs export`: {error}") from None
    try:
        return _checked(path, opened)
    except BaseException:
        opened.close()
        raise


def _checked(path: Path, opened: zipfile.ZipFile) -> ExportReader:
    manifest = _read_manifest(path, opened)
    rows_of: dict[str, str] = {}
    files_of: dict[str, dict[str, str]] = {}
    names = [entry.filename for entry in opened.infolist() if entry.filename != _MANIFEST]
    if sorted(names) != sorted(manifest["files"]):
        raise DataError(f"{path} is damaged: its members are not those that its manifest lists")
    for entry in opened.infolist():
        if entry.filename == _MANIFEST:
            continue
        match = _MEMBER.fullmatch(entry.filename)
        if match is None or ".." in entry.filename:
            raise DataError(f"{path}: `{sanitize(entry.filename)}` is no file of a run; refused")
        if match[1]:
            rows_of[match[1]] = entry.filename
        else:
            files_of.setdefault(match[2], {})[match[3]] = entry.filename
    if files_of.keys() - rows_of.keys():
        raise DataError(f"{path} is damaged: it has files of a run that it has no rows of")
    if any(manifest["files"][name]["size"] > _MAX_ROWS_BYTES for name in rows_of.values()):
        raise DataError(f"{path}: a run has more than {_MAX_ROWS_BYTES >> 20} MiB of rows; refused")
    return ExportReader(path, manifest, rows_of, files_of, opened)


def _read_manifest(path: Path, opened: zipfile.ZipFile) -> JsonObject:
    foreign = DataError(f"{path} is no file of `lsqctl runs export`: it has no manifest of one")
    try:
        if opened.getinfo(_MANIFEST).file_size > _MAX_MANIFEST_BYTES:
            raise foreign
        manifest = json.loads(opened.read(_MANIFEST))
        version, files = manifest["format"], manifest["files"]
        ok = all(
            type(entry["size"]) is int and entry["size"] >= 0 and len(entry["sha256"]) == 64
            for entry in files.values()
        )
        if type(version) is not int or type(manifest["schema"]) is not str or not ok:
            raise foreign
    except (*_UNREADABLE, AttributeError):
        raise foreign from None
    if version > FORMAT:
        raise DataError(f"{path} has format {version}, and this lsqctl reads {FORMAT}: upgrade it")
    return dict(manifest)
