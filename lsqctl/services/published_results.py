"""Published results of a workspace: list, add and remove them, import Papers With Code tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lsqctl.atomic_write import inode_hint, replace_file
from lsqctl.errors import DataError, NotFound, StoreError, UsageError
from lsqctl.leaderboard.published_results import (
    PublishedResult,
    PwcRow,
    WorkspaceResults,
    dump_workspace_results,
    load_bundled_results,
    parse_workspace_results,
    pwc_rows,
    to_published_result,
)
from lsqctl.leaderboard.pwc_archive import ArchiveTable, read_tables
from lsqctl.ownership import lock_file, read_regular
from lsqctl.services.workspace import create_workspace
from lsqctl.settings import Settings
from lsqctl.text import did_you_mean

MAX_FILE_BYTES = 200_000_000

AddOutcome = Literal["added", "exists", "replaced"]


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import has found: new rows, how many were there already, and what to check.

    ``warnings`` say of a row why the board cannot show it (it is kept, and `--view pwc` shows it),
    or that something among the rows was none.
    """

    task: str
    dataset: str
    rows: tuple[PwcRow, ...]
    n_existing: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ArchiveTableSummary:
    """One table of an archive: its task, its dataset, and how many rows it has."""

    task: str
    dataset: str
    n_rows: int


def load_workspace_results(settings: Settings) -> WorkspaceResults:
    """Return what this workspace has added.  Raises DataError, naming the file and the line."""
    path = settings.published_results_file
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(
                f"{path} is larger than {MAX_FILE_BYTES:,} bytes: no list of published results"
            )
        return parse_workspace_results(read_regular(path).decode(), source_name=str(path))
    except FileNotFoundError:
        return WorkspaceResults()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason})") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def load_published_results(settings: Settings | None) -> list[PublishedResult]:
    """Return the bundled published results and those of the workspace, none twice."""
    bundled = load_bundled_results()
    return bundled if settings is None else load_workspace_results(settings).merged_with(bundled)


def add_published_result(
    settings: Settings,
    published: PublishedResult,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
) -> AddOutcome:
    """Add a row; one that is there already, word for word, is left as it is.

    Raises UsageError for another row of its dataset and model, unless ``overwrite`` and it is one
    that was added here: bundled rows stay.
    """
    with _locked(settings, dry_run=dry_run):
        results, bundled = load_workspace_results(settings), load_bundled_results()
        if published in (*bundled, *results.published):
            return "exists"
        name = f"{published.model} of {published.dataset}"
        if published.key in {row.key for row in bundled}:
            raise UsageError(
                f"{name} ships with lsqctl, with other values; give the row a name of its own"
            )
        kept = tuple(row for row in results.published if row.key != published.key)
        existed = len(kept) < len(results.published)
        if existed and not overwrite:
            raise UsageError(
                f"{name} was added with other values; --replace puts this row in its place"
            )
        if not dry_run:
            _write_results(settings, replace(results, published=(*kept, published)))
        return "replaced" if existed else "added"


@dataclass(frozen=True, slots=True)
class MergedResults:
    """Rows of another workspace: how many are new here, and by name why one was left out."""

    n_added: int
    left_out: Mapping[str, str]


def merge_published_results(
    settings: Settings, other: Settings, *, dry_run: bool = False
) -> MergedResults:
    """Add what another workspace has added and imported; what is here already stays as it is.

    Raises DataError for a file of either that does not read.
    """
    others, bundled = load_workspace_results(other), load_bundled_results()
    if others == WorkspaceResults():
        return MergedResults(0, {})
    with _locked(settings, dry_run=dry_run):
        ours = load_workspace_results(settings)
        here = {row.key: row for row in (*ours.published, *bundled)}
        unknown = [row for row in others.published if row not in here.values()]
        clashing = [row for row in unknown if row.key in here]
        new = tuple(row for row in unknown if row not in clashing)
        new_pwc = tuple(row for row in others.pwc_rows if row not in {*ours.pwc_rows})
        if (new or new_pwc) and not dry_run:
            published, pwc = (*ours.published, *new), (*ours.pwc_rows, *new_pwc)
            _write_results(settings, replace(ours, published=published, pwc_rows=pwc))
    reason = "is here with other values; `published add --replace` would change it"
    left_out = {f"published row {row.model} of {row.dataset}": reason for row in clashing}
    return MergedResults(len(new) + len(new_pwc), left_out)


def remove_published_results(
    settings: Settings, model: str, *, dataset: str | None = None, dry_run: bool = False
) -> list[PublishedResult | PwcRow]:
    """Take out the rows of this name that were added or imported here, and return them.

    Raises UsageError for one that ships with lsqctl, NotFound for an unknown one.
    """
    with _locked(settings, dry_run=dry_run):
        results = load_workspace_results(settings)
        candidates: list[PublishedResult | PwcRow] = [*results.published, *results.pwc_rows]
        removed = [
            row for row in candidates if row.model == model and dataset in (None, row.dataset)
        ]
        if not removed:
            if any(row.model == model for row in load_bundled_results()):
                raise UsageError(f"{model} ships with lsqctl; --published none hides such rows")
            hint = did_you_mean(model, sorted({row.model for row in candidates}))
            scope = f" of {dataset}" if dataset else ""
            raise NotFound(f"no row `{model}`{scope} was added to this workspace{hint}")
        if not dry_run:
            kept_results = tuple(row for row in results.published if row not in removed)
            rows = tuple(row for row in results.pwc_rows if row not in removed)
            _write_results(settings, replace(results, published=kept_results, pwc_rows=rows))
    return removed


def list_archive_tables(path: Path) -> list[ArchiveTableSummary]:
    """Return what tables an archive file has, each once, by task and dataset."""
    counts: dict[tuple[str, str], set[PwcRow]] = {}
    for table in read_tables(path):
        counts.setdefault((table.task, table.dataset), set()).update(pwc_rows(table))
    return [ArchiveTableSummary(*key, len(rows)) for key, rows in sorted(counts.items())]


def import_pwc_table(
    settings: Settings, path: Path, *, task: str, dataset: str, dry_run: bool = False
) -> ImportReport:
    """Add the rows of one table of a Papers With Code archive; those known already are left.

    Nothing is stored unless the whole file could be read. Raises DataError for a bad file and
    NotFound, with the nearest name, for a task or dataset that it does not have.
    """
    tables = _select_tables(read_tables(path), path, task, dataset)
    archive_rows = list(dict.fromkeys(row for table in tables for row in pwc_rows(table)))
    with _locked(settings, dry_run=dry_run):
        results = load_workspace_results(settings)
        existing = set(results.pwc_rows)
        new = tuple(row for row in archive_rows if row not in existing)
        if new and not dry_run:
            _write_results(settings, replace(results, pwc_rows=(*results.pwc_rows, *new)))
    skipped = sum(table.n_skipped for table in tables)
    skip_warnings = [f"{skipped} entries among the rows are none: no model name, or no metrics"]
    return ImportReport(
        tables[0].task,
        tables[0].dataset,
        new,
        len(archive_rows) - len(new),
        (*_board_warnings(new), *(skip_warnings if skipped else ())),
    )


def _board_warnings(rows: Iterable[PwcRow]) -> Iterator[str]:
    for row in rows:
        converted = to_published_result(row)
        if isinstance(converted, str):
            yield f"{row.model}: {converted}; kept, but not on the board"


def _select_tables(
    tables: Iterable[ArchiveTable], path: Path, task: str, dataset: str
) -> list[ArchiveTable]:
    names: dict[str, set[str]] = {}
    selected = []
    for table in tables:
        names.setdefault(table.task, set()).add(table.dataset)
        if (table.task.casefold(), table.dataset.casefold()) == (
            task.casefold(),
            dataset.casefold(),
        ):
            selected.append(table)
    if selected:
        return selected
    datasets = {
        member for name in names if name.casefold() == task.casefold() for member in names[name]
    }
    value, field, candidates = (
        (dataset, "dataset", datasets) if datasets else (task, "task", set(names))
    )
    of_task = f" of task `{task}`" if datasets else ""
    raise NotFound(
        f"{path} has no {field} `{value}`{of_task}{did_you_mean(value, candidates)}; "
        "without --task and "
        "--dataset it is listed what there is"
    )


@contextmanager
def _locked(settings: Settings, *, dry_run: bool) -> Iterator[None]:
    """Let one process at a time read, change and write the file."""
    if dry_run:
        yield
        return
    create_workspace(settings)
    path = settings.published_results_file.with_suffix(".lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        reason = f"{error.strerror}{inode_hint(error, path)}"
        raise StoreError(f"cannot write {path}: {reason}") from None
    try:
        _lock(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    try:
        lock_file(descriptor, path, wait=True)
    except OSError as error:
        raise StoreError(
            f"cannot lock {path}: {error.strerror}; put the workspace on another"
        ) from None


def _write_results(settings: Settings, results: WorkspaceResults) -> None:
    """Write the file whole or not at all."""
    path = settings.published_results_file
    try:
        replace_file(path, dump_workspace_results(results).encode())
    except OSError as error:
        reason = f"{error.strerror}{inode_hint(error, path)}"
        raise StoreError(f"cannot write {path}: {reason}") from None
