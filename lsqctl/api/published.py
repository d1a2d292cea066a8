"""Published rows of a workspace: list them, add one, import a table of Papers With Code."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lsqctl.api.workspace import make_home
from lsqctl.errors import DataError, NotFound, StoreError, UsageError, did_you_mean
from lsqctl.leaderboard.archive import ArchiveTable, read_tables
from lsqctl.leaderboard.published import PublishedRow, as_reference, published_rows
from lsqctl.leaderboard.reference_file import Added, dump_added, load_added
from lsqctl.leaderboard.references import Reference, load_references
from lsqctl.settings import Settings

MAX_FILE_BYTES = 200_000_000

Outcome = Literal["added", "known", "replaced"]


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import has found: new rows, how many were there already, and what to look at.

    ``warnings`` say of a row why the board cannot show it (it is kept, and `--view pwc` shows it),
    or that something among the rows was none.
    """

    task: str
    dataset: str
    rows: tuple[PublishedRow, ...]
    known: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """One table of an archive: its task, its dataset, and how many rows it has."""

    task: str
    dataset: str
    rows: int


def added_rows(settings: Settings) -> Added:
    """Return what this workspace has added.  Raises DataError, naming the file and the line."""
    path = settings.references_file
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(
                f"{path} is larger than {MAX_FILE_BYTES:,} bytes: no list of references"
            )
        return load_added(path.read_text("utf-8"), where=str(path))
    except FileNotFoundError:
        return Added()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason})") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def all_references(settings: Settings | None) -> list[Reference]:
    """Return the bundled references and those of the workspace, no result twice."""
    bundled = load_references()
    return bundled if settings is None else added_rows(settings).shown(bundled)


def add_reference(
    settings: Settings, reference: Reference, *, replaces: bool = False, dry_run: bool = False
) -> Outcome:
    """Add a row; one that is there already, word for word, is left as it is.

    Raises UsageError for another row of its dataset and model, unless ``replaces`` and it is one
    that was added here: bundled rows stay.
    """
    with _locked(settings, dry_run=dry_run):
        added = added_rows(settings)
        key = (reference.dataset, reference.model)
        if reference in (*load_references(), *added.references):
            return "known"
        if any((one.dataset, one.model) == key for one in load_references()):
            raise UsageError(
                f"{reference.model} of {reference.dataset} ships with lsqctl, with other values; "
                "give the row a name of its own"
            )
        others = tuple(one for one in added.references if (one.dataset, one.model) != key)
        taken = len(others) < len(added.references)
        if taken and not replaces:
            raise UsageError(
                f"{reference.model} of {reference.dataset} was added with other values; --replace "
                "puts this row in its place"
            )
        if not dry_run:
            _write(settings, replace(added, references=(*others, reference)))
        return "replaced" if taken else "added"


def remove_references(
    settings: Settings, model: str, *, dataset: str | None = None, dry_run: bool = False
) -> list[Reference | PublishedRow]:
    """Take out the rows of this name that were added or imported here, and return them.

    Raises UsageError for one that ships with lsqctl, NotFound for an unknown one.
    """
    with _locked(settings, dry_run=dry_run):
        added = added_rows(settings)
        here: list[Reference | PublishedRow] = [*added.references, *added.rows]
        gone = [one for one in here if one.model == model and dataset in (None, one.dataset)]
        if not gone:
            if any(one.model == model for one in load_references()):
                raise UsageError(f"{model} ships with lsqctl; --references none hides such rows")
            hint = did_you_mean(model, sorted({one.model for one in here}))
            where = f" of {dataset}" if dataset else ""
            raise NotFound(f"no row `{model}`{where} was added to this workspace{hint}")
        if not dry_run:
            references = tuple(one for one in added.references if one not in gone)
            rows = tuple(one for one in added.rows if one not in gone)
            _write(settings, replace(added, references=references, rows=rows))
    return gone


def contents(path: Path) -> list[Contents]:
    """Return what tables an archive file has, each once, by task and dataset."""
    counts: dict[tuple[str, str], set[PublishedRow]] = {}
    for table in read_tables(path):
        counts.setdefault((table.task, table.dataset), set()).update(published_rows(table))
    return [Contents(*key, len(rows)) for key, rows in sorted(counts.items())]


def import_pwc(
    settings: Settings, path: Path, *, task: str, dataset: str, dry_run: bool = False
) -> Imported:
    """Add the rows of one table of a Papers With Code archive; those known already are left.

    Nothing is stored unless the whole file could be read. Raises DataError for a bad file and
    NotFound, with the nearest name, for a task or dataset that it does not have.
    """
    tables = _picked(read_tables(path), path, task, dataset)
    found = list(dict.fromkeys(row for table in tables for row in published_rows(table)))
    with _locked(settings, dry_run=dry_run):
        added = added_rows(settings)
        known = set(added.rows)
        new = tuple(row for row in found if row not in known)
        if new and not dry_run:
            _write(settings, replace(added, rows=(*added.rows, *new)))
    skipped = sum(table.skipped for table in tables)
    lost = [f"{skipped} entries among the rows are none: no model name, or no metrics"]
    return Imported(
        tables[0].task,
        tables[0].dataset,
        new,
        len(found) - len(new),
        (*_doubts(new), *(lost if skipped else ())),
    )


def _doubts(rows: Iterable[PublishedRow]) -> Iterator[str]:
    for row in rows:
        why = as_reference(row)
        if isinstance(why, str):
            yield f"{row.model}: {why}; kept, but not on the board"


def _picked(
    tables: Iterable[ArchiveTable], path: Path, task: str, dataset: str
) -> list[ArchiveTable]:
    names: dict[str, set[str]] = {}
    picked = []
    for table in tables:
        names.setdefault(table.task, set()).add(table.dataset)
        if (table.task.casefold(), table.dataset.casefold()) == (
            task.casefold(),
            dataset.casefold(),
        ):
            picked.append(table)
    if picked:
        return picked
    sets = {one for name in names if name.casefold() == task.casefold() for one in names[name]}
    word, what, known = (dataset, "dataset", sets) if sets else (task, "task", set(names))
    of_task = f" of task `{task}`" if sets else ""
    raise NotFound(
        f"{path} has no {what} `{word}`{of_task}{did_you_mean(word, known)}; without --task and "
        "--dataset it is listed what there is"
    )


@contextmanager
def _locked(settings: Settings, *, dry_run: bool) -> Iterator[None]:
    """Let one process at a time read, change and write the file."""
    if dry_run:
        yield
        return
    make_home(settings)
    path = settings.references_file.with_suffix(".lock")
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _write(settings: Settings, added: Added) -> None:
    """Write the file whole or not at all."""
    path = settings.references_file
    temporary = path.with_suffix(".tmp")
    try:
        temporary.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(dump_added(added))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
