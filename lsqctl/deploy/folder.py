"""The folder that one hands over: written whole or not at all, and checked without torch.

``check.json`` holds what the conversion found, the sha256 of every other file, and its own; the
expected logits stand in ``expected.npz`` beside the images (bytes) that they belong to.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsqctl.atomic_write import half_made, inode_hint
from lsqctl.deploy.forms import FORMS, UNCLIPPED, Form, Runner, Unavailable, WrittenForm
from lsqctl.deploy.runtime import Array
from lsqctl.errors import DataError, NotFound, UsageError
from lsqctl.run import JsonObject

CHECK, EXPECTED = "check.json", "expected.npz"
SCHEMA_VERSION = 1  # of check.json
_OWN_DIGEST = "sha256_of_the_rest"


@dataclass(frozen=True, slots=True)
class FolderVerdict:
    """What a check of a folder found: a line for each thing wrong, and how much was compared.

    ``models`` are the files that ran, each with its runtime; ``not_run`` says of others why not.
    """

    directory: Path
    problems: tuple[str, ...]
    n_files: int
    n_images: int
    models: tuple[str, ...]
    not_run: tuple[str, ...] = ()


def check_free(directory: Path) -> None:
    """Raise UsageError where a folder or file stands already, or no folder could be made."""
    if directory.exists() or directory.is_symlink():
        raise UsageError(f"{directory} exists; name another folder, or remove it first")
    parent = directory.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"there is no folder {parent} to write into")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"{parent} cannot be written into; name a folder elsewhere")


def write_folder(directory: Path, files: Mapping[str, bytes], report: JsonObject) -> None:
    """Write the files and ``check.json``; a crash or a full disk leaves nothing of that name.

    Raises UsageError, in one line, where it cannot.
    """
    check_free(directory)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    everything = {**files, CHECK: _manifest(report | {"sha256": digests})}
    try:
        with half_made(directory.absolute()) as temporary:
            temporary.mkdir()
            for name, data in everything.items():
                (temporary / name).parent.mkdir(exist_ok=True)
                with (temporary / name).open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            temporary.rename(directory)
    except OSError as error:
        reason = f"{error.strerror}{inode_hint(error, directory)}"
        raise UsageError(
            f"cannot write {directory}: {reason}; nothing is left of it, so name a folder "
            "elsewhere or make room"
        ) from None


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
    """Return what ``check.json`` says.

    Raises NotFound without it, DataError for one that is damaged or of a newer version.
    """
    if not directory.is_dir():
        what = "is a file" if directory.exists() else "is not there"
        raise NotFound(f"{directory} {what}; `lsqctl deploy RUN -o DIR` writes a folder to check")
    path = directory / CHECK
    data, report = _read_json(path)
    version = report.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise DataError(
            f"{path} has version {version}, this lsqctl reads {SCHEMA_VERSION}: upgrade lsqctl"
        )
    if _manifest({key: value for key, value in report.items() if key != _OWN_DIGEST}) != data:
        raise DataError(f"{path} has changed since it was written: deploy the run again")
    if not _is_whole(report):
        raise DataError(f"{path} is not what a deployment writes: deploy the run again")
    for name in report["sha256"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"{path} names a file outside of the folder: {name!r}")
    return report


def _read_json(path: Path) -> tuple[bytes, JsonObject]:
    """Return the bytes of a report, and the object that they are."""
    try:
        data = path.read_bytes()
        report: JsonObject | None = json.loads(data)
    except FileNotFoundError:
        raise NotFound(
            f"{path.parent} has no {CHECK}; `lsqctl deploy RUN -o DIR` writes such a folder"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}; deploy the run again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(report, dict):
        raise DataError(f"{path} holds no JSON object: deploy the run again")
    return data, report


def _is_whole(report: JsonObject) -> bool:
    """Return whether a report has what a check reads of it, in the types that it has there."""
    digests, forms = report.get("sha256"), report.get("forms")
    if not isinstance(digests, dict) or not isinstance(forms, dict):
        return False
    types = {"form": str, "file": str, "runtime": str, "expected_differing": int}
    are_named = EXPECTED in digests and all(isinstance(digest, str) for digest in digests.values())
    return are_named and all(
        isinstance(entry, dict)
        and all(isinstance(entry.get(k), t) for k, t in types.items())
        and entry["file"] in digests
        for entry in forms.values()
    )


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


def check_folder(directory: Path, *, threads: int = 1, trusted: bool = False) -> FolderVerdict:
    """Hash every file, run each form that can run here on the expected images, compare every bit.

    Needs numpy and what the forms run in, no run and no torch. Code in the folder (the form *c*)
    is compiled and run only where it is ``trusted``. Raises NotFound or DataError where there is no
    readable report.
    """
    report = read_report(directory)
    problems = list(changed_files(directory, report["sha256"]))
    images, logits = read_expected(directory)
    models: list[str] = []
    not_run: list[str] = []
    for entry in report["forms"].values():
        if (path := directory / entry["file"]).is_file():
            expected = images, logits
            ran, found, reasons = _check_model(
                path, entry, expected, threads=threads, trusted=trusted
            )
            models, problems, not_run = models + ran, problems + found, not_run + reasons
    n_files = len(report["sha256"]) + 1
    return FolderVerdict(
        directory, tuple(problems), n_files, len(images), tuple(models), tuple(not_run)
    )


def _check_model(
    path: Path, entry: JsonObject, expected: tuple[Array, Array], *, threads: int, trusted: bool
) -> tuple[list[str], list[str], list[str]]:
    """Return which model ran, what is wrong with it, and why it was not run: lines of each.

    What a runtime refused, or computed as no other, when the file was written is no change since.
    """
    ran: list[str] = []
    try:
        runner = _runner(path, entry, threads=threads, trusted=trusted)
        if isinstance(runner, Unavailable):
            is_change = runner.refused and "not_run" not in entry
            line = f"{path} was not run in {runner.runtime}: {runner.reason}"
            return ([], [runner.reason], []) if is_change else ([], [], [line])
        problems = list(_compare(path, entry, *expected, runner))
        ran = [f"{path.name} in {runner.runtime}"]
    except DataError as error:
        problems = [str(error)]
    return ([], [], problems) if problems and entry.get("refused") else (ran, problems, [])


def _runner(path: Path, entry: JsonObject, *, threads: int, trusted: bool) -> Runner | Unavailable:
    """Return a file in the runtime in which it was checked when it was written."""
    if entry["form"] not in FORMS:
        raise DataError(f"{path} has the form {entry['form']}, which is not known: upgrade lsqctl")
    written = WrittenForm(path.read_bytes())
    a_form: Form = FORMS.load(entry["form"])()
    for runner in a_form.runners(written, name=str(path), threads=threads, trusted=trusted):
        if runner.runtime == entry["runtime"]:
            return runner
    return Unavailable(entry["runtime"], "this version knows no such runtime")


def changed_files(directory: Path, digests: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with each file that is not as it was written."""
    for name, digest in digests.items():
        path = directory / name
        if not path.is_file():
            yield f"{path} is gone: deploy the run again"
        elif (found := hashlib.sha256(path.read_bytes()).hexdigest()) != digest:
            says = f"its sha256 is {found}, {CHECK} says {digest}"
            yield f"{path} has changed: {says}; deploy the run again"


_NO_ARRAYS = (
    *(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error),
    *(TypeError, RuntimeError, MemoryError),  # of one array, of a zip with a password, too large
)


def read_expected(directory: Path) -> tuple[Array, Array]:
    """Return the expected images and logits.  Raises DataError."""
    path = directory / EXPECTED
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, logits = arrays["images"], arrays["logits"]
    except FileNotFoundError:
        raise DataError(f"{path} is gone: deploy the run again") from None
    except _NO_ARRAYS as error:
        raise DataError(f"{path} cannot be read: {error}; deploy the run again") from None
    shapes = images.ndim > 1 and logits.ndim == 2 and 0 < len(images) == len(logits)
    if not shapes or images.dtype not in (np.uint8, np.float32) or logits.dtype != np.float32:
        found = ", ".join(f"{array.dtype} {array.shape}" for array in (images, logits))
        raise DataError(f"{path} holds no images and their logits ({found}): deploy the run again")
    return images, logits


NEAR = 1e-3
"""By how much of the range of all logits a form that computes in float may be off in an image."""


def _compare(
    path: Path, entry: JsonObject, images: Array, expected: Array, runner: Runner
) -> Iterator[str]:
    """Yield what is wrong with the logits of one model."""
    wanted = expected[: runner.max_images]
    logits = runner.answer(images[: runner.max_images]).logits
    if logits.shape != wanted.shape or logits.dtype != wanted.dtype:
        found, right = (f"{array.dtype} {array.shape}" for array in (logits, wanted))
        yield f"{path} gives {found}, expected {right}"
        return
    bits = bool(entry.get("promises_bits", runner.promises_bits))
    unequal = unlike_images(wanted, logits, bits=bits)
    allowed = int(entry["expected_differing"])
    n_unequal = int(unequal.sum())
    if not n_unequal or (not bits and n_unequal <= allowed + len(wanted) // 4):
        return
    yield (
        f"{path}: the logits of {n_unequal} of {len(wanted)} images are not the expected ones "
        f"(image {int(unequal.argmax())} is the first; {allowed} were so when it was written)"
        f"{_clipping(entry)}"
    )


def _clipping(entry: JsonObject) -> str:
    """Return what else is to be said of a file that an lsqctl of before has written."""
    if entry["form"] != "exact" or entry.get(UNCLIPPED) or not entry.get("promises_bits", True):
        return ""
    return (
        "; an older lsqctl wrote its weights so that processors without VNNI or AMX may clip "
        "sums of them: deploy the run again, and no processor does"
    )


def unlike_images(expected: Array, found: Array, *, bits: bool) -> NDArray[np.bool_]:
    """Return which rows of logits differ: in any bit, or by more than ``NEAR`` of the range.

    A runtime that computes in float rounds as it sees fit, and where a code flips thereby the
    logits move; so it is held to most images, and by a distance that a wrong mean passes in all.
    """
    if bits:
        both = (np.ascontiguousarray(logits).view(np.uint32) for logits in (found, expected))
        return np.asarray(np.not_equal(*both).any(1), np.bool_)
    wanted = expected.astype(np.float64)
    distances = np.abs(wanted - found.astype(np.float64)).max(1)
    near: NDArray[np.bool_] = distances <= NEAR * np.ptp(wanted)
    return ~near  # so that what is no number is not near
