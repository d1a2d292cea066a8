"""Write a checkpoint so that a crash at any moment leaves a good one; read only what verifies.

``ckpt.tmp.<fence>`` is filled file by file, each hashed while it is written and synced; then comes
``manifest.json`` with sizes and sha256; then the folder is renamed to ``ckpt-<step>`` and its
parent synced. The last two and the best are kept, and what each of the two calls the best; the
others go when the new one is recorded.
"""

from __future__ import annotations

import errno
import io
import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lsqctl.errors import DataError
from lsqctl.facts import Checkpoint
from lsqctl.failpoint import failpoint
from lsqctl.training.durable_file import DurableFile, sync_folder
from lsqctl.training.folders import (
    at_once,
    checkpoint_folders,
    folder_of,
    put_in_place,
    replaced,
)
from lsqctl.training.manifest import (
    MANIFEST,
    SCHEMA,
    manifest_sha256,
    manifest_text,
    read_manifest,
    verified,
)

_HEADROOM = 3  # free space wanted, in sizes of the last checkpoint
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a run needs to go on.

    ``model`` is a state dict; ``training`` holds the optimizer's and the random states;
    ``state`` plain values for JSON. ``best_step`` names the checkpoint to keep.
    """

    step: int
    epoch: int
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    state: Mapping[str, Any]
    best_step: int | None = None


def write_checkpoint(
    run_dir: Path,
    snapshot: Snapshot,
    *,
    fence: str,
    owning: Callable[[Callable[[], None]], None] = at_once,
) -> Checkpoint:
    """Write a snapshot durably; ``remove`` what it replaces once it is recorded.

    ``owning`` does what it is given while nobody else can become the run's owner, and raises
    LeaseLost when somebody has. Raises OSError, with earlier checkpoints untouched and nothing
    temporary left. An input/output error is answered once with fresh files; a full disk is not.
    """
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not checkpoint_folders(run_dir):
        sync_folder(run_dir.parent)  # or a power cut may take the folder with all that is in it
    _check_room(run_dir)
    temporary = run_dir / f"ckpt.tmp.{fence}"
    for last_try in (False, True):
        try:
            sha256, size = _fill(temporary, snapshot, fence)
            break
        except OSError as error:
            needed = sum(entry.stat().st_size for entry in _files(temporary))
            shutil.rmtree(temporary, ignore_errors=True)
            if error.errno in _NO_ROOM:
                raise _disk_full(run_dir, max(needed, _last_size(run_dir)), error.errno) from None
            if last_try or error.errno != errno.EIO:
                raise
    final = folder_of(run_dir, snapshot.step)
    try:
        owning(_once(lambda: put_in_place(temporary, final)))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # where it was not put in place
    failpoint("checkpoint.renamed")
    best, gone = snapshot.best_step == snapshot.step, replaced(run_dir, final, snapshot.best_step)
    return Checkpoint(snapshot.step, snapshot.epoch, final, sha256, size, best, gone)


def read_checkpoint(folder: Path) -> Snapshot:
    """Return a checkpoint; raises DataError naming the file that does not verify."""
    manifest = read_manifest(folder)
    step, epoch, best = manifest["step"], manifest["epoch"], manifest["best_step"]
    return Snapshot(
        step,
        epoch,
        model=_tensors(folder, manifest, "model.pt"),
        training=_tensors(folder, manifest, "training.pt"),
        state=json.loads(verified(folder, manifest, "state.json")),
        best_step=best,
    )


def load_model_state(folder: Path, variant: str | None = None) -> dict[str, Any]:
    """Return a checkpoint's model, step sizes and flags included.

    ``variant`` is raw, ema or bn; None is the one that the run declared its headline (raw before
    the training has ended where that is bn). Raises DataError, for a variant that is not held too.
    """
    manifest = read_manifest(folder)
    model = dict(_tensors(folder, manifest, "model.pt"))
    wanted = variant or read_state(folder).get("variant", "raw")
    if wanted == "raw":
        return model
    held = _tensors(folder, manifest, "training.pt").get(wanted)
    if held is None and variant:
        raise DataError(f"{folder} holds no {variant} variant of its weights")
    return model | dict(held or {})


def read_state(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's plain values alone; raises DataError."""
    state: dict[str, Any] = json.loads(verified(folder, read_manifest(folder), "state.json"))
    return state


def verify_checkpoint(folder: Path) -> str:
    """Return the manifest's sha256 when every byte verifies; raises DataError naming the file."""
    for name in (manifest := read_manifest(folder))["files"]:
        verified(folder, manifest, name)
    return manifest_sha256(folder)


def _once(work: Callable[[], None]) -> Callable[[], None]:
    """Return ``work`` to be called again without harm: a transaction around it may be retried."""
    done: list[bool] = []

    def call() -> None:
        if not done:
            work()
            done.append(True)

    return call


def _fill(temporary: Path, snapshot: Snapshot, fence: str) -> tuple[str, int]:
    """Write every file; return the manifest's sha256 and the size of all."""
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(mode=0o700)
    state = json.dumps(snapshot.state).encode()
    written: dict[str, tuple[int, str]] = {}
    writers: dict[str, Callable[[DurableFile], object]] = {
        "model.pt": lambda file: torch.save(dict(snapshot.model), file),  # type: ignore[arg-type]
        "training.pt": lambda file: torch.save(dict(snapshot.training), file),  # type: ignore[arg-type]
        "state.json": lambda file: file.write(state),
    }
    for name, write in writers.items():
        written[name] = _write(temporary / name, write)
    manifest = manifest_text(
        {
            "schema": SCHEMA,
            "step": snapshot.step,
            "epoch": snapshot.epoch,
            "best_step": snapshot.best_step,
            "fence": fence,
            "files": {name: {"size": s, "sha256": h} for name, (s, h) in written.items()},
        }
    )
    failpoint("checkpoint.before-manifest")
    size, sha256 = _write(temporary / MANIFEST, lambda file: file.write(manifest))
    sync_folder(temporary)
    failpoint("checkpoint.after-manifest")
    return sha256, size + sum(size for size, _ in written.values())


def _write(path: Path, write: Callable[[DurableFile], object]) -> tuple[int, str]:
    with DurableFile(path) as file:
        try:
            write(file)
        except RuntimeError:  # torch.save hides the file's own error
            if file.fault is None:
                raise
            raise file.fault from None
        file.sync()
        return file.size, file.hexdigest()


def _tensors(folder: Path, manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    data = verified(folder, manifest, name)
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(f"{folder / name} holds more than tensors: {error}") from None
    found: Mapping[str, Any] = loaded
    return found


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.is_file()]


def _last_size(run_dir: Path) -> int:
    return sum(
        path.stat().st_size for last in checkpoint_folders(run_dir)[:1] for path in _files(last)
    )


def _check_room(run_dir: Path) -> None:
    needed = _HEADROOM * _last_size(run_dir)
    if shutil.disk_usage(run_dir).free < needed:
        raise _disk_full(run_dir, needed, errno.ENOSPC)


def _disk_full(run_dir: Path, needed: int, code: int) -> OSError:
    free = shutil.disk_usage(run_dir).free
    return OSError(
        code, f"disk full: need {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB free on {run_dir}"
    )
