"""Take finished runs to another workspace: by a file, or from one workspace into another.

Everything is checked first, then files are laid out beside the runs, then all rows are added in one
transaction: what fails on the way leaves nothing behind. The same run twice is one run.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl import __version__
from lsqctl.atomic_write import atomic_file, check_overwrite
from lsqctl.bundled import file_sha256
from lsqctl.errors import DataError, IllegalTransition, NotFound, StoreError, UsageError
from lsqctl.failpoint import failpoint
from lsqctl.recipe import is_valid_name
from lsqctl.run import ACTIVE_STATES, JsonObject
from lsqctl.services.import_staging import staging_folder
from lsqctl.services.published_results import merge_published_results
from lsqctl.services.removal import existing_run_dir, remove_tree, tree_size
from lsqctl.services.transfer_file import (
    ExportReader,
    ExportWriter,
    is_file_name,
    open_export,
)
from lsqctl.settings import Settings, sqlite_url
from lsqctl.text import format_bytes

if TYPE_CHECKING:
    from lsqctl.store import Store
    from lsqctl.store.soft_delete import RunRows


_SETTINGS_FILES = {"workspace.toml": "trackers, launcher and hooks", "cluster.toml": "profiles"}


@dataclass(frozen=True, slots=True)
class ExportReport:
    """A file that was written; ``parents`` of its runs were taken along unasked."""

    path: Path
    runs: tuple[str, ...]
    parents: tuple[str, ...]
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class TransferReport:
    """What was taken in, what was there already, and, of a workspace, what is unfinished there.

    ``clashes`` says by id why a run cannot be taken in; where there are any, nothing was.
    ``published`` counts published rows that came along; ``left_out`` says what did not, and why.
    ``missing_plugins`` says which plugins the runs were made with and are not here, and what to do.
    """

    imported: tuple[str, ...]
    existing: tuple[str, ...]
    unfinished: int = 0
    clashes: Mapping[str, str] = field(default_factory=dict)
    published: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)
    missing_plugins: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Bundle:
    """One run on its way: its rows, what lays its files out in a folder, and their bytes."""

    rows: RunRows
    unpack: Callable[[Path], None]
    size_bytes: Callable[[], int]

    @property
    def id(self) -> str:
        return str(self.rows["runs"][0]["id"])


def export_runs(
    store: Store,
    settings: Settings,
    run_refs: Sequence[str],
    path: Path,
    *,
    checkpoints: bool = False,
    force: bool = False,
) -> ExportReport:
    """Write finished runs, and those that they started from, into one file.

    Raises NotFound, IllegalTransition for an unfinished run, and UsageError for a file that is
    there or cannot be written; then there is no new one.
    """
    check_overwrite(path, force=force)
    runs = [store.runs.resolve(ref) for ref in run_refs]
    for run in runs:
        if run.state in ACTIVE_STATES:
            raise IllegalTransition(f"run {run.id} is {run.state}; only finished ones are exported")
    ids = store.transfer.finished_with_parents([run.id for run in runs])
    head = {"schema": store.maintenance.schema_version(), "lsqctl": __version__}
    with atomic_file(path, force=force) as file, ExportWriter(file, head) as writer:
        for run_id in ids:
            _export_run(writer, store, settings, run_id, checkpoints=checkpoints)
    named = tuple(run.id for run in runs)
    parents = tuple(run_id for run_id in ids if run_id not in named)
    return ExportReport(path, named, parents, path.stat().st_size, file_sha256(path))


def _export_run(
    writer: ExportWriter, store: Store, settings: Settings, run_id: str, *, checkpoints: bool
) -> None:
    folder = existing_run_dir(settings, run_id)
    rows = _rows_with_files(store, run_id, folder if checkpoints else None)
    writer.add_rows(run_id, rows)
    kept = {Path(row["directory"]).name for row in rows["checkpoints"]}
    for path, name in _files(folder) if folder else ():
        is_run_file = name.endswith(".log") or name.partition("/")[0] in kept
        if is_run_file and is_file_name(name):  # another is one that somebody put there
            writer.add_file(run_id, path, name)


def _rows_with_files(store: Store, run_id: str, folder: Path | None) -> RunRows:
    """Return the rows of a run, of its checkpoints only those that lie in ``folder``."""
    rows = store.transfer.rows_of(run_id)
    names = {path.name for path in folder.iterdir() if path.is_dir()} if folder else set()
    here = [row for row in rows["checkpoints"] if Path(row["directory"]).name in names]
    return {**rows, "checkpoints": here}


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of a run's folder and their names, two levels deep; no links."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            continue
        if path.is_file():
            yield path, path.name
        elif path.is_dir():
            inner = [one for one in sorted(path.iterdir()) if one.is_file()]
            yield from ((one, f"{path.name}/{one.name}") for one in inner if not one.is_symlink())


def import_runs(store: Store, settings: Settings, path: Path) -> TransferReport:
    """Take in the runs of a file; those that are here already are left as they are.

    Raises DataError for a file that is damaged, foreign, newer or not to be trusted, and StoreError
    where there is no room; then nothing was taken in.
    """
    reader = open_export(path)
    try:
        _check_schema(path, reader.manifest["schema"], store.maintenance.schema_version())
        bundles = [_read_bundle(reader, run_id) for run_id in reader.rows_of]
        bundles.sort(key=lambda bundle: bundle.rows["runs"][0]["created_at"])
        report = _take_in(store, settings, bundles, source=path.name)
        return _with_missing_plugins(report, bundles)
    finally:
        reader.close()


def _check_schema(path: Path, schema: str, current: str) -> None:
    if schema > current:
        raise DataError(f"{path} is of schema {schema}, and this lsqctl has {current}: upgrade it")


def _check_room(settings: Settings, size: int) -> None:
    free = shutil.disk_usage(settings.home).free
    if size > free:
        raise StoreError(
            f"{format_bytes(size)} do not fit on the disk of {settings.home}, "
            f"which has {format_bytes(free)} left"
        )


def _read_bundle(reader: ExportReader, run_id: str) -> _Bundle:
    from lsqctl.store.transfer import check_rows

    rows = reader.read_rows(run_id)
    try:
        check_rows(run_id, rows)
        _check_texts(run_id, rows["runs"][0])
    except DataError as error:
        raise DataError(f"{reader.path}: {error}") from None

    def unpack(folder: Path) -> None:
        for name in reader.files_of.get(run_id, ()):
            target = folder / name
            target.parent.mkdir(mode=0o700, exist_ok=True)
            with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                reader.write_file(run_id, name, file)
                os.fsync(file.fileno())

    return _Bundle(rows, unpack, lambda: reader.size_of(run_id))


def _check_texts(run_id: str, run: JsonObject) -> None:
    """Raise DataError for a run that could not have been submitted under its name."""
    recipe, provenance = _json_object(run["recipe"]), _json_object(run["provenance"])
    if not is_valid_name(run["name"]) or recipe is None or provenance is None:
        raise DataError(f"run {run_id}: its name, recipe or provenance is not that of a run")


def _json_object(text: str) -> Mapping[str, object] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def merge_workspace(
    store: Store,
    settings: Settings,
    other: Path,
    *,
    dry_run: bool = False,
    on_left_out: Callable[[Mapping[str, str]], None] | None = None,
) -> TransferReport:
    """Take in every finished run of another workspace, with its files, and its published rows.

    It is only read. What stays there is in the report, and is told to ``on_left_out`` before
    anything is taken in: unfinished runs, its trash, published rows that are other ones here,
    its own settings, and its plugins, which are code that nobody here has read.

    Where runs clash, the report says which, and nothing is taken in. Raises NotFound where there is
    no workspace, UsageError for this one itself.
    """
    from lsqctl.store import open_store

    other_settings = settings_of_other(settings, other)
    with open_store(other_settings.db_url, read_only=True) as source:
        unfinished = source.runs.list(states=ACTIVE_STATES)
        ids = source.transfer.finished()
        bundles = [_stored_bundle(source, other_settings, run_id) for run_id in ids]
        # before anything is written: a damaged file of the other side raises
        planned = merge_published_results(settings, other_settings, dry_run=True)
        left_out = {
            **_unshared_files(settings, other_settings),
            **planned.left_out,
            **{f"run {run.id} ({run.name})": f"is {run.state} there" for run in unfinished},
            **dict.fromkeys(_runs_in_trash(source, other_settings), "is in the trash there"),
        }
        if on_left_out:
            on_left_out(left_out)
        report = _take_in(store, settings, bundles, source=str(other), dry_run=dry_run)
        report = _with_missing_plugins(report, bundles)
    reads_only = dry_run or bool(report.clashes)
    published = merge_published_results(settings, other_settings, dry_run=reads_only)
    return replace(
        report, unfinished=len(unfinished), published=published.n_added, left_out=left_out
    )


def settings_of_other(settings: Settings, other: Path) -> Settings:
    """Return those of another workspace.  Raises NotFound, and UsageError for this one itself."""
    database = other / "lsqctl.db"
    if not database.is_file():
        raise NotFound(f"{other} is no workspace: it holds no lsqctl.db")
    if settings.home.resolve() == other.resolve():
        raise UsageError(f"{other} is the workspace that it would be merged into")
    return replace(settings, home=other.absolute(), db_url=sqlite_url(database.absolute()))


def _runs_in_trash(source: Store, other_settings: Settings) -> list[str]:
    """Return the runs in a workspace's trash; of those that an old lsqctl put there, the ids."""
    removed = {run.id: f"run {run.id} ({run.name})" for run in source.trash.list()}
    for path in sorted(other_settings.trash_dir.glob("*/rows.jsonl")):
        removed.setdefault(path.parent.name, f"run {path.parent.name}")
    return list(removed.values())


def _unshared_files(settings: Settings, other_settings: Settings) -> dict[str, str]:
    """Return the settings and plugins that are there and not here, and what to do about each."""
    left_out = {}
    for name, what in _SETTINGS_FILES.items():
        own, other = settings.home / name, other_settings.home / name
        if _differs(own, other):
            left_out[name] = f"has {what}: read it, and take over what you want into {own}"
    for other in sorted(other_settings.plugins_dir.glob("*.py")):
        own = settings.plugins_dir / other.name
        if _differs(own, other):
            what = "is another one here" if own.is_file() else "is code"
            advice = f"read it, copy it to {own.parent}, and `lsqctl plugins trust {other.name}`"
            left_out[f"plugin {other.name}"] = f"{what}: {advice}"
    return left_out


def _differs(own: Path, other: Path) -> bool:
    if not other.is_file():
        return False
    return not (own.is_file() and file_sha256(own) == file_sha256(other))


def _stored_bundle(source: Store, other_settings: Settings, run_id: str) -> _Bundle:
    home = existing_run_dir(other_settings, run_id)

    def unpack(folder: Path) -> None:
        for path, name in _files(home) if home else ():
            target = folder / name
            target.parent.mkdir(mode=0o700, exist_ok=True)
            shutil.copyfile(path, target, follow_symlinks=False)

    rows = _rows_with_files(source, run_id, home)
    return _Bundle(rows, unpack, lambda: tree_size(home) if home else 0)


def _take_in(
    store: Store,
    settings: Settings,
    bundles: Sequence[_Bundle],
    *,
    source: str,
    dry_run: bool = False,
) -> TransferReport:
    known = store.transfer.compare([bundle.rows for bundle in bundles])
    clashes = {run_id: clash for run_id, clash in known.items() if clash}
    new = [bundle for bundle in bundles if bundle.id not in known]
    _check_room(settings, sum(bundle.size_bytes() for bundle in new))
    if clashes or dry_run:
        planned = () if clashes else tuple(bundle.id for bundle in new)
        return TransferReport(planned, tuple(known.keys() - clashes.keys()), clashes=clashes)
    with _laid_out(settings, new) as placed:
        added = store.transfer.insert([bundle.rows for bundle in new], placed, source=source)
    existing = (*known, *(bundle.id for bundle in new if bundle.id not in added))
    return TransferReport(tuple(added), existing)


def _with_missing_plugins(report: TransferReport, bundles: Iterable[_Bundle]) -> TransferReport:
    """Add what the runs taken in cannot go on without: their numbers need no plugin."""
    from lsqctl.services.plugins import missing_plugins

    needed: dict[str, object] = {}
    imported = set(report.imported)
    for bundle in bundles:
        if bundle.id in imported:
            provenance = _json_object(bundle.rows["runs"][0]["provenance"]) or {}
            plugins = provenance.get("plugins")
            needed |= plugins if isinstance(plugins, dict) else {}
    return replace(report, missing_plugins=missing_plugins(needed))


_Placed = Callable[[Sequence[str]], AbstractContextManager[Mapping[str, Path]]]


@contextmanager
def _laid_out(settings: Settings, bundles: Sequence[_Bundle]) -> Iterator[_Placed]:
    """Lay out the folder of each run, complete; yield what puts them in their places.

    What is cut off leaves folders without rows, which the next import, or `runs gc`, removes.
    """
    with staging_folder(settings.runs_dir) as staging:
        for bundle in bundles:
            (staging / bundle.id).mkdir(mode=0o700)
            bundle.unpack(staging / bundle.id)
        failpoint("import.before-move")
        yield partial(_placed, settings, staging)


@contextmanager
def _placed(
    settings: Settings, staging: Path, run_ids: Sequence[str]
) -> Iterator[Mapping[str, Path]]:
    """Move folders to where their runs belong, and back on an error: nobody else adds runs now."""
    folders = {run_id: settings.run_dir(run_id) for run_id in run_ids}
    moved: list[str] = []
    try:
        for run_id, folder in folders.items():
            if not (staging / run_id).exists():  # moved before a commit that is tried again
                continue
            if folder.is_symlink() or folder.exists():  # left by an import that was cut off
                remove_tree(folder)
            (staging / run_id).rename(folder)
            moved.append(run_id)
        yield folders
    except BaseException:
        for run_id in moved:
            folders[run_id].rename(staging / run_id)
        raise
