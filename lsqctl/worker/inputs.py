"""Find the bytes that a recipe names: weights files by digest, parents by checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.bundled import file_sha256
from lsqctl.datasets.identity import dataset_identity
from lsqctl.errors import DataError
from lsqctl.events import StoredCheckpoint
from lsqctl.run import EXTENSION_ROLE, JsonObject, RunDetail
from lsqctl.settings import expand_home
from lsqctl.training.checkpoint_files import manifest_sha256

if TYPE_CHECKING:
    from lsqctl.store import Store


def resolve_inputs(
    detail: RunDetail, store: Store, data_dir: Path, runs_dir: Path
) -> dict[str, str | Path]:
    """Return, by recipe key, a checkpoint folder, a weights file, or ``torchvision:NAME``.

    ``runs_dir`` holds the folders of all runs. Raises DataError where a file is gone, or a file or
    the dataset is not what was submitted.
    """
    parents = {
        role: parent_checkpoint(store, run_id, runs_dir / run_id, last=role == EXTENSION_ROLE)
        for role, run_id in detail.parents.items()
    }
    files = resolve_files(detail, data_dir)
    if "data" in detail.provenance:
        data = detail.recipe["data"]
        identity = dataset_identity(data["name"], data_dir, data.get("path"))
        check_data_unchanged(detail, identity, data_dir)
    return {**parents, **files}


def resolve_files(detail: RunDetail, data_dir: Path) -> dict[str, str | Path]:
    """Return what ``resolve_inputs`` does, but for parents."""
    resolved: dict[str, str | Path] = {}
    for key, entry in _recorded_inputs(detail.provenance).items():
        if "torchvision" in entry:
            resolved[key] = f"torchvision:{entry['torchvision']}"
        else:
            resolved[key] = _weights_file(key, entry, data_dir)
    return resolved


def check_data_unchanged(detail: RunDetail, identity: str, data_dir: Path) -> None:
    """Raise DataError unless a dataset is, by its identity, what the run was submitted with.

    Not where the submission did not look at it.
    """
    submitted = detail.provenance.get("data", identity)
    if identity != submitted:
        raise DataError(
            f"data.name: {detail.recipe['data']['name']} in {data_dir} has changed since the run "
            f"was submitted ({_shortened(submitted)} → {_shortened(identity)}); restore it, or "
            "submit it again"
        )


def parent_checkpoint(store: Store, run_id: str, run_dir: Path, *, last: bool = False) -> Path:
    """Return the folder of the checkpoint that a finished run stands for: its headline's.

    With ``last`` that of the last epoch, from which its training goes on. Raises DataError.
    """
    newest = max(store.checkpoints.list(run_id), key=lambda row: row.step, default=None)
    headline = next((row for row in store.results.evaluations(run_id) if row.headline), None)
    chosen = newest
    if headline is not None and headline.selection == "best" and not last:
        chosen = _at_step(store.checkpoints.list(run_id), headline.step)
    if chosen is None:
        raise DataError(
            f"the parent run {run_id} has no checkpoint any more; submit its recipe again with "
            "--if-exists rerun"
        )
    return current_location(run_dir, chosen.directory)


def current_location(run_dir: Path, recorded_path: str) -> Path:
    """Return where a checkpoint lies today: in the run's own folder, for workspaces are moved."""
    in_run_dir = run_dir / Path(recorded_path).name
    return in_run_dir if in_run_dir.is_dir() else Path(recorded_path)


def input_digests(inputs: Mapping[str, str | Path], detail: RunDetail) -> dict[str, str]:
    """Return, by recipe key, what names the bytes that an attempt starts from.

    A parent's checkpoint by the sha256 of its manifest, a file by its own. Raises DataError where
    a parent's checkpoint is gone.
    """
    digests = {}
    for key, source in inputs.items():
        if key in detail.parents:
            digests[key] = f"run {detail.parents[key]}, checkpoint {manifest_sha256(Path(source))}"
        else:
            digests[key] = _recorded_inputs(detail.provenance)[key].get("sha256", str(source))
    return digests


def find_weights_file(weights_name: str, recipe_dir: Path | None, data_dir: Path) -> Path | None:
    """Return the weights file that a recipe names: beside the recipe, then in the data folder."""
    path = expand_home(Path(weights_name))
    folders = [] if path.is_absolute() else [recipe_dir, Path.cwd(), data_dir]
    candidates = (
        [path] if path.is_absolute() else [candidate / path for candidate in folders if candidate]
    )
    return next((candidate.absolute() for candidate in candidates if candidate.is_file()), None)


def _recorded_inputs(provenance: JsonObject) -> Mapping[str, Mapping[str, str]]:
    inputs: Mapping[str, Mapping[str, str]] = provenance.get("inputs", {})
    return inputs


def _weights_file(key: str, entry: Mapping[str, str], data_dir: Path) -> Path:
    recorded = Path(entry["path"])
    path = recorded if recorded.is_file() else find_weights_file(entry["name"], None, data_dir)
    if path is None:
        raise DataError(f"{key}: {recorded} is gone, and {data_dir} has no {entry['name']}")
    if file_sha256(path) != entry["sha256"]:
        raise DataError(f"{key}: {path} has changed since the run was submitted; submit it again")
    return path


def _at_step(checkpoints: Sequence[StoredCheckpoint], step: int) -> StoredCheckpoint | None:
    return next((checkpoint for checkpoint in checkpoints if checkpoint.step == step), None)


def _shortened(identity: str) -> str:
    """Return what names a dataset's content, its digest cut to 12 digits."""
    kind, colon, digest = identity.partition(":")
    return f"{kind}{colon}{digest[:12]}"
