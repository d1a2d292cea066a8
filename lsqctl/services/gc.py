"""Find and remove what nothing needs: old checkpoints, leftovers, a teacher's logits long unused.

Kept are: everything of unfinished runs, the newest checkpoints of finished ones, the best, and
those that a result names.  Logits of a teacher that nobody read for a month go, for other
workspaces may share the data folder: a run that wants them computes them again.  What a killed
process left of a file or a download goes a day later.  Files of people are never touched: only
names that lsqctl gives.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lsqctl.atomic_write import STALE_SECONDS, stale_temporaries
from lsqctl.cluster.pilot_script import cluster_dir
from lsqctl.datasets import data_digest
from lsqctl.errors import StoreError
from lsqctl.run import ACTIVE_STATES
from lsqctl.services.import_staging import abandoned_imports
from lsqctl.services.removal import remove_tree, tree_size
from lsqctl.services.workspace import run_folders
from lsqctl.settings import Settings, sqlite_path
from lsqctl.training import logit_stores
from lsqctl.training.checkpoint_files import (
    checkpoint_dirs,
    quarantined_dirs,
    temporary_dir,
    temporary_dirs,
)
from lsqctl.training.logit_stores import stored_logits

if TYPE_CHECKING:
    from lsqctl.store import Store
    from lsqctl.store.checkpoints import RunRetention

GarbageKind = Literal["checkpoint", "half-written", "no run", "teacher logits"]
_LOGITS_UNUSED = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Garbage:
    """One folder or file that may go, of which run (none: a workspace's or data's), and why."""

    run_id: str
    path: Path
    kind: GarbageKind
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """What may go; ``unknown_dirs`` counts run folders of which the database knows none at all."""

    garbage: tuple[Garbage, ...]
    unknown_dirs: int = 0


def find_garbage(
    store: Store, settings: Settings, *, keep_last: int = 1, older_than: float = 0.0
) -> GarbageReport:
    """Return what may go, by run; of runs that ended less than ``older_than`` seconds ago nothing.

    ``keep_last`` newest checkpoints of each finished run stay, at least one: a failed run is
    tried again from it, and children start from a succeeded one's. Where the database knows none
    of the folders it is probably another workspace's, and none of them may go.
    """
    # the disk before the rows: what a run or an attempt made since is never taken for nobody's
    folders = run_folders(settings.runs_dir)
    temporaries = {folder: temporary_dirs(folder) for folder in folders}
    retentions = store.checkpoints.retention([folder.name for folder in folders])
    cutoff = datetime.now(UTC) - timedelta(seconds=older_than)
    garbage: list[Garbage] = []
    for folder in folders:
        retention = retentions.get(folder.name)
        if retention is not None:
            garbage += _half_written(folder.name, temporaries[folder], retention.fence)
            garbage += _temporary_files(folder.name, folder, older_than)
            garbage += _old_checkpoints(folder, retention, max(1, keep_last), cutoff)
        elif retentions:
            garbage += _folder_of_no_run(folder, settings.trash_dir, cutoff)
    garbage += _left_by_imports(settings.runs_dir)
    for folder in _written_folders(settings):
        garbage += _temporary_files("", folder, older_than)
    garbage += _unused_logits(settings.data_dir, min(cutoff, datetime.now(UTC) - _LOGITS_UNUSED))
    return GarbageReport(tuple(garbage), unknown_dirs=0 if retentions else len(folders))


def unknown_run_dirs(store: Store, settings: Settings) -> int:
    """Return how many run folders there are when the database knows none of them, else 0."""
    folders = run_folders(settings.runs_dir)
    return 0 if store.checkpoints.retention([folder.name for folder in folders]) else len(folders)


def remove_garbage(store: Store, garbage: Sequence[Garbage]) -> list[Garbage]:
    """Remove what was found and return what went; a run that was tried again keeps its own."""
    removed = []
    for item in garbage:
        if item.kind == "no run" and store.checkpoints.retention([item.run_id]):
            continue
        path = item.path
        if item.kind == "checkpoint":
            path = temporary_dir(item.path.parent, secrets.token_hex(16))
            set_aside = partial(_rename, item.path, path)
            if not store.checkpoints.delete(item.run_id, [item.path.name], set_aside):
                continue
        remove_tree(path)
        removed.append(item)
    return removed


def _rename(path: Path, aside: Path) -> None:
    """Let a checkpoint be a half-written one of nobody, if another process has not done so."""
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot remove {path}: {error.strerror}") from None


def _unused_logits(data_dir: Path, cutoff: datetime) -> Iterator[Garbage]:
    for store in stored_logits(data_dir):
        if store.used_at <= cutoff:
            yield Garbage("", store.path, "teacher logits", tree_size(store.path))


def _half_written(
    run_id: str, fences: Mapping[Path, str], current: str | None
) -> Iterator[Garbage]:
    for path, fence in fences.items():
        if fence != current:
            yield Garbage(run_id, path, "half-written", tree_size(path))


def _left_by_imports(runs_dir: Path) -> Iterator[Garbage]:
    for path in abandoned_imports(runs_dir):
        yield Garbage("", path, "half-written", tree_size(path))


def _written_folders(settings: Settings) -> list[Path]:
    """Return where lsqctl itself writes files whole or not at all, but for the folders of runs."""
    database = sqlite_path(settings.db_url) or settings.home
    folders = [
        *(settings.home, settings.runs_dir, database.parent, cluster_dir(settings.home)),
        *(settings.data_dir, settings.data_dir / data_digest.FOLDER),
        *(settings.data_dir / logit_stores.FOLDER).glob("*"),
    ]
    return list({folder.resolve(): folder for folder in folders}.values())


def _temporary_files(run_id: str, folder: Path, older_than: float) -> Iterator[Garbage]:
    for path in stale_temporaries(folder, max(older_than, STALE_SECONDS)):
        yield Garbage(run_id, path, "half-written", tree_size(path))


def _old_checkpoints(
    folder: Path, retention: RunRetention, keep_last: int, cutoff: datetime
) -> Iterator[Garbage]:
    if (
        retention.state in ACTIVE_STATES
        or retention.finished_at is None
        or retention.finished_at > cutoff
    ):
        return
    newest = [path for path in checkpoint_dirs(folder) if path.is_dir() and not path.is_symlink()]
    # a retry goes on from what has a row; by stems, for of one step both the old and the new count
    with_row = [path for path in newest if path.stem in retention.stored]
    last = list(dict.fromkeys(path.stem for path in with_row or newest))[:keep_last]
    kept = {*retention.needed, *last}
    not_kept = [path for path in reversed(newest) if path.stem not in kept]
    for path in (*quarantined_dirs(folder), *not_kept):
        yield Garbage(folder.name, path, "checkpoint", tree_size(path))


def _folder_of_no_run(folder: Path, trash_dir: Path, cutoff: datetime) -> Iterator[Garbage]:
    """Yield a folder that was not touched since; none on its way into the trash, or out of it."""
    is_moving = (trash_dir / folder.name).exists()
    if not is_moving and datetime.fromtimestamp(folder.lstat().st_mtime, UTC) <= cutoff:
        yield Garbage(folder.name, folder, "no run", tree_size(folder))
