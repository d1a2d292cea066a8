"""The folder that one hands over: written whole or not at all, and checked without torch.

``check.json`` holds what the conversion found, the sha256 of every other file, and its own; the
expected logits stand in ``expected.npz`` beside the images (bytes) that they belong to.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lsqctl.deploy.runtime import Array, open_session, require, run_session
from lsqctl.errors import DataError, NotFound, UsageError
from lsqctl.run import JsonObject

CHECK, EXPECTED = "check.json", "expected.npz"
_OWN_DIGEST = "sha256_of_the_rest"


@dataclass(frozen=True, slots=True)
class FolderVerdict:
    """What a check of a folder found: a line for each thing wrong, and how much was compared."""

    directory: Path
    problems: tuple[str, ...]
    n_files: int
    n_images: int
    models: tuple[str, ...]


def check_free(directory: Path) -> None:
    """Raise UsageError where a folder or file stands already, or no folder could be made."""
    if directory.exists() or directory.is_symlink():
        raise UsageError(f"{directory} exists; name another folder, or remove it first")
    if not directory.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {directory.absolute().parent} to write into")


def write_folder(directory: Path, files: Mapping[str, bytes], report: JsonObject) -> None:
    """Write the files and ``check.json``; a crash or a full disk leaves nothing of that name.

    Raises UsageError, in one line, where it cannot.
    """
    check_free(directory)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    everything = {**files, CHECK: _manifest(report | {"sha256": digests})}
    temporary = directory.absolute().with_name(f".lsqctl.{directory.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        for name, data in everything.items():
            with (temporary / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        temporary.rename(directory)
    except OSError as error:
        raise UsageError(f"cannot write {directory}: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def npz_bytes(**arrays: Array) -> bytes:
    """Return arrays as an npz file: the same bytes for the same arrays."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _manifest(report: JsonObject) -> bytes:
    digest = hashlib.sha256(_canonical(report)).hexdigest()
    return _canonical({**report, _OWN_DIGEST: digest})


def _canonical(report: JsonObject) -> bytes:
    return (json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read_report(directory: Path) -> JsonObject:
    """Return what ``check.json`` says.  Raises NotFound without it, DataError for a damaged one."""
    path = directory / CHECK
    try:
        data = path.read_bytes()
        report: JsonObject = json.loads(data)
        rest = {key: value for key, value in report.items() if key != _OWN_DIGEST}
    except FileNotFoundError:
        raise NotFound(
            f"{directory} has no {CHECK}; `lsqctl deploy RUN -o DIR` writes such a folder"
        ) from None
    except (ValueError, AttributeError, OSError) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    if _manifest(rest) != data:
        raise DataError(f"{path} has changed since it was written: deploy the run again")
    return report


def exact_entry(report: JsonObject, n_images: int) -> JsonObject | None:
    """Return what a report has of the exact form, if its codes were compared on so many images."""
    entry: JsonObject | None = report["forms"].get("exact")
    complete = entry is not None and entry.get("images") == n_images and entry["codes"]
    return entry if complete else None


def exactness(report: JsonObject) -> str:
    """Return how near the exact form is to its reference: exact, settled, or differing codes."""
    entry = report["forms"]["exact"]
    if entry["codes_differing"]:
        return f"{1e6 * entry['codes_differing'] / entry['codes']:.2g} in 10^6"
    return "settled" if report["settled"] else "exact"


def check_folder(directory: Path, *, threads: int = 1) -> FolderVerdict:
    """Hash every file, run each model on the expected images, and compare every bit.

    Needs onnxruntime and numpy, no run and no torch. Raises NotFound or DataError where there is
    no readable report.
    """
    require("onnxruntime")
    report = read_report(directory)
    problems = list(_changed_files(directory, report["sha256"]))
    images, logits = _read_expected(directory)
    models = {form["file"]: form for form in report["forms"].values() if form["runtime"]}
    for name, form in models.items():
        try:
            problems += _compare(directory / name, form, images, logits, threads)
        except DataError as error:
            problems.append(str(error))
    return FolderVerdict(
        directory, tuple(problems), len(report["sha256"]) + 1, len(images), tuple(models)
    )


def _changed_files(directory: Path, digests: Mapping[str, str]) -> Iterator[str]:
    for name, digest in digests.items():
        path = directory / name
        if not path.is_file():
            yield f"{path} is gone: deploy the run again"
        elif (found := hashlib.sha256(path.read_bytes()).hexdigest()) != digest:
            yield f"{path} has changed: its sha256 is {found}, {CHECK} says {digest}"


def _read_expected(directory: Path) -> tuple[Array, Array]:
    path = directory / EXPECTED
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["images"], arrays["logits"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}; deploy the run again") from None


def _compare(
    path: Path, form: JsonObject, images: Array, expected: Array, threads: int
) -> Iterator[str]:
    """Yield what is wrong with the logits of one model."""
    if not path.is_file():
        return
    session = open_session(path.read_bytes(), threads=threads, name=str(path))
    logits = run_session(session, images)["logits"]
    if logits.shape != expected.shape or logits.dtype != expected.dtype:
        found, wanted = (f"{array.dtype} {array.shape}" for array in (logits, expected))
        yield f"{path} gives {found}, expected {wanted}"
        return
    unequal = (np.ascontiguousarray(logits).view(np.uint32) != expected.view(np.uint32)).any(1)
    allowed = int(form["expected_differing"])
    if (n_unequal := int(unequal.sum())) != allowed:
        first = int(np.flatnonzero(unequal)[0]) if n_unequal else 0
        yield (
            f"{path}: the logits of {n_unequal} of {len(images)} images are not the expected ones "
            f"(image {first} is the first; {allowed} were so when it was written)"
        )
