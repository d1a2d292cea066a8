"""Checkpoints: written so that no crash loses the last one, read verified, resumed from.

A temporary folder is filled file by file, each hashed while it is written and synced; then comes
``manifest.json`` with sizes and sha256; then the folder gets its step's name and its parent is
synced. The last two and the best are kept, and what each of the two calls the best; the others go
when the new one is recorded.
"""

from __future__ import annotations

import errno
import io
import json
import pickle
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from lsqctl.atomic_write import is_out_of_inodes
from lsqctl.errors import DataError
from lsqctl.events import Checkpoint
from lsqctl.failpoint import failpoint
from lsqctl.run import JsonObject
from lsqctl.text import format_bytes
from lsqctl.training.checkpoint_files import (
    MANIFEST_NAME,
    MANIFEST_SCHEMA,
    DurableFile,
    checkpoint_dir,
    checkpoint_dirs,
    commit_checkpoint,
    encode_manifest,
    fsync_dir,
    manifest_sha256,
    quarantine,
    quarantined_dirs,
    read_manifest,
    read_verified,
    remove_checkpoints,
    superseded,
    temporary_dir,
    temporary_dirs,
    without_lease,
)

_FREE_SPACE_FACTOR = 3  # free space needed, in sizes of the last checkpoint
_DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class CheckpointContent:
    """All that a run needs to go on.

    ``model`` is a state dict; ``training`` holds the optimizer's and the random states;
    ``state`` plain values for JSON. ``best_step`` names the checkpoint to keep.
    """

    step: int
    epoch: int
    model: JsonObject
    training: JsonObject
    state: JsonObject
    best_step: int | None = None


def write_checkpoint(
    run_dir: Path,
    content: CheckpointContent,
    *,
    fence: str,
    with_lease: Callable[[Callable[[], None]], None] = without_lease,
) -> Checkpoint:
    """Write a checkpoint durably; remove what it ``replaces`` once it is recorded.

    ``with_lease`` calls a function while nobody else can become the run's owner, and raises
    LeaseLost when somebody has. Raises OSError, with earlier checkpoints untouched and nothing
    temporary left. An input/output error is answered once with fresh files; a full disk is not.
    """
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not checkpoint_dirs(run_dir):
        fsync_dir(run_dir.parent)  # or a power cut may take the folder with all that is in it
    _check_free_space(run_dir)
    temporary = temporary_dir(run_dir, fence)
    for last_try in (False, True):
        try:
            sha256, size = _write_files(temporary, content, fence)
            break
        except OSError as error:
            needed = sum(entry.stat().st_size for entry in _files_in(temporary))
            out_of_inodes = is_out_of_inodes(run_dir)  # before some become free again
            shutil.rmtree(temporary, ignore_errors=True)
            if error.errno in _DISK_FULL_ERRNOS and out_of_inodes:
                raise _no_inode(run_dir, error.errno) from None
            if error.errno in _DISK_FULL_ERRNOS:
                raise _disk_full(
                    run_dir, max(needed, _last_checkpoint_bytes(run_dir)), error.errno
                ) from None
            if last_try or error.errno != errno.EIO:
                raise
    final = checkpoint_dir(run_dir, content.step)
    try:
        with_lease(_run_once(lambda: commit_checkpoint(temporary, final)))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # where it was not committed
    failpoint("checkpoint.renamed")
    best, superseded_dirs = (
        content.best_step == content.step,
        superseded(run_dir, final, content.best_step),
    )
    return Checkpoint(content.step, content.epoch, final, sha256, size, best, superseded_dirs)


def read_checkpoint(folder: Path) -> CheckpointContent:
    """Return a checkpoint; raises DataError naming the file that does not verify."""
    manifest = read_manifest(folder)
    step, epoch, best = manifest["step"], manifest["epoch"], manifest["best_step"]
    return CheckpointContent(
        step,
        epoch,
        model=_load_tensors(folder, manifest, "model.pt"),
        training=_load_tensors(folder, manifest, "training.pt"),
        state=json.loads(read_verified(folder, manifest, "state.json")),
        best_step=best,
    )


def load_model_state(folder: Path, variant: str | None = None) -> JsonObject:
    """Return a checkpoint's model, step sizes and flags included.

    ``variant`` is raw, ema or bn; None is the one that the run declared its headline (raw before
    the training has ended where that is bn). Raises DataError, for a variant that is not held too.
    """
    manifest = read_manifest(folder)
    model = dict(_load_tensors(folder, manifest, "model.pt"))
    variant_name = variant or read_state(folder).get("variant", "raw")
    if variant_name == "raw":
        return model
    variant_state = _load_tensors(folder, manifest, "training.pt").get(variant_name)
    if variant_state is None and variant:
        raise DataError(f"{folder} holds no {variant} variant of its weights")
    return model | dict(variant_state or {})


def read_state(folder: Path) -> JsonObject:
    """Return a checkpoint's plain values alone; raises DataError."""
    state: JsonObject = json.loads(read_verified(folder, read_manifest(folder), "state.json"))
    return state


def verify_checkpoint(folder: Path) -> str:
    """Return the manifest's sha256 when every byte verifies; raises DataError naming the file."""
    for name in (manifest := read_manifest(folder))["files"]:
        read_verified(folder, manifest, name)
    return manifest_sha256(folder)


def _run_once(work: Callable[[], None]) -> Callable[[], None]:
    """Return ``work`` to be called again without harm: a transaction around it may be retried."""
    results: list[bool] = []

    def call() -> None:
        if not results:
            work()
            results.append(True)

    return call


def _write_files(temporary: Path, content: CheckpointContent, fence: str) -> tuple[str, int]:
    """Write every file; return the manifest's sha256 and the size of all."""
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(mode=0o700)
    state = json.dumps(content.state).encode()
    written: dict[str, tuple[int, str]] = {}
    writers: dict[str, Callable[[DurableFile], object]] = {
        "model.pt": lambda file: torch.save(dict(content.model), file),  # type: ignore[arg-type]
        "training.pt": lambda file: torch.save(dict(content.training), file),  # type: ignore[arg-type]
        "state.json": lambda file: file.write(state),
    }
    for name, write in writers.items():
        written[name] = _write_file(temporary / name, write)
    manifest = encode_manifest(
        {
            "schema": MANIFEST_SCHEMA,
            "step": content.step,
            "epoch": content.epoch,
            "best_step": content.best_step,
            "fence": fence,
            "files": {
                name: {"size": file_size, "sha256": file_sha256}
                for name, (file_size, file_sha256) in written.items()
            },
        }
    )
    failpoint("checkpoint.before-manifest")
    size, sha256 = _write_file(temporary / MANIFEST_NAME, lambda file: file.write(manifest))
    fsync_dir(temporary)
    failpoint("checkpoint.after-manifest")
    return sha256, size + sum(size for size, _ in written.values())


def _write_file(path: Path, write: Callable[[DurableFile], object]) -> tuple[int, str]:
    with DurableFile(path) as file:
        try:
            write(file)
        except RuntimeError:  # torch.save hides the file's own error
            if file.write_error is None:
                raise
            raise file.write_error from None
        file.sync()
        return file.size, file.hexdigest()


def _load_tensors(folder: Path, manifest: JsonObject, name: str) -> JsonObject:
    data = read_verified(folder, manifest, name)
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(f"{folder / name} holds more than tensors: {error}") from None
    tensors: JsonObject = loaded
    return tensors


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.is_file()]


def _last_checkpoint_bytes(run_dir: Path) -> int:
    return sum(
        path.stat().st_size for last in checkpoint_dirs(run_dir)[:1] for path in _files_in(last)
    )


def _check_free_space(run_dir: Path) -> None:
    if is_out_of_inodes(run_dir):
        raise _no_inode(run_dir, errno.ENOSPC)
    needed = _FREE_SPACE_FACTOR * _last_checkpoint_bytes(run_dir)
    if shutil.disk_usage(run_dir).free < needed:
        raise _disk_full(run_dir, needed, errno.ENOSPC)


def _no_inode(run_dir: Path, code: int) -> OSError:
    free = format_bytes(shutil.disk_usage(run_dir).free)
    return OSError(
        code,
        f"disk full: no inode is free on {run_dir}, though {free} are; remove files, however small",
    )


def _disk_full(run_dir: Path, needed: int, code: int) -> OSError:
    free = shutil.disk_usage(run_dir).free
    return OSError(
        code, f"disk full: need {format_bytes(needed)}, {format_bytes(free)} free on {run_dir}"
    )


def resume_point(
    run_dir: Path,
    recorded_checkpoints: Collection[str] | None = None,
    with_lease: Callable[[Callable[[], None]], None] = without_lease,
) -> tuple[CheckpointContent | None, list[str]]:
    """Return the newest checkpoint that verifies and is recorded, and a note on each other.

    ``recorded_checkpoints`` are the manifests' sha256 that have a row; None takes every one.
    A damaged checkpoint is quarantined (until the next attempt), or it would count as one of the
    last two while good ones go. ``with_lease`` changes the folder while nobody else can
    become the run's owner, and raises LeaseLost when somebody has.
    """
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    notes: list[str] = []
    with_lease(lambda: notes.extend(clean_up(run_dir, recorded_checkpoints)))
    for folder in checkpoint_dirs(run_dir):
        try:
            content = read_checkpoint(folder)
        except DataError as error:
            notes.append(f"passed over a damaged checkpoint: {error}")
            with_lease(partial(_quarantine, folder))
            continue
        with_lease(partial(_finish_rename, folder, checkpoint_dir(run_dir, content.step)))
        return content, notes
    return None, notes


def clean_up(run_dir: Path, recorded_checkpoints: Collection[str] | None = None) -> list[str]:
    """Remove what dead attempts left half done, and return notes on it.

    That is what was half written, what was quarantined earlier, and whole checkpoints without
    a row. A damaged one stays, to be reported.
    """
    remove_checkpoints([*temporary_dirs(run_dir), *quarantined_dirs(run_dir)])
    if recorded_checkpoints is None:
        return []
    orphans = [
        path
        for path in checkpoint_dirs(run_dir)
        if _intact_sha256(path) not in {None, *recorded_checkpoints}
    ]
    remove_checkpoints(orphans)
    return [f"removed a checkpoint that was never recorded: {folder}" for folder in orphans]


def _intact_sha256(folder: Path) -> str | None:
    """Return the sha256 of a manifest that has its own, else None."""
    try:
        read_manifest(folder)
        return manifest_sha256(folder)
    except DataError:
        return None


def _quarantine(folder: Path) -> None:
    try:
        quarantine(folder)
    except OSError:  # a disk that only reads: the next write says so, in better words
        return


def _finish_rename(folder: Path, final: Path) -> None:
    """Finish a replacement that a crash cut short: one folder a step, under its own name."""
    if folder.exists() and folder != final:
        folder.rename(final)
    remove_checkpoints(
        other for other in checkpoint_dirs(final.parent) if other.stem == final.name != other.name
    )
