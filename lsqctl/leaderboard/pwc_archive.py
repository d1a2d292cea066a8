"""Read the Papers With Code archive's evaluation tables: a JSON file of any size, task by task.

The format is sota-extractor's: a list of tasks, each with datasets (and subdatasets) that hold
``sota.metrics`` and ``sota.rows``, and with subtasks like itself. Its data are under CC-BY-SA 4.0.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict, TypeGuard

from lsqctl.errors import DataError, NotFound

ARCHIVE_LICENCE = "CC-BY-SA 4.0"
MAX_BYTES = 2_000_000_000
MAX_TASK_BYTES = 200_000_000
MAX_DEPTH = 50
_MAX_JSON_DEPTH = 4 * MAX_DEPTH  # a list and an object for each dataset or subtask, and some more
_CHUNK = 65_536
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OPENING, _CLOSING = frozenset({"start_map", "start_array"}), frozenset({"end_map", "end_array"})


class ArchiveRow(TypedDict):
    """A row as it stands in the file; of the rest nothing is known before it is read."""

    model_name: str
    metrics: Mapping[str, object]
    paper_title: NotRequired[object]
    paper_url: NotRequired[object]
    paper_date: NotRequired[object]
    model_links: NotRequired[object]
    code_links: NotRequired[object]


@dataclass(frozen=True, slots=True)
class ArchiveTable:
    """The rows of one task on one dataset, as they stand in the file.

    ``metrics`` gives the order of the columns; ``n_skipped`` counts what stood among the rows and
    was none.
    """

    task: str
    dataset: str
    metrics: tuple[str, ...]
    rows: tuple[ArchiveRow, ...]
    n_skipped: int = 0


def read_tables(path: Path) -> Iterator[ArchiveTable]:
    """Yield every table of an archive file, plain or gzipped, in its order.

    Only one top-level task is in memory at a time. Raises DataError, in one line, for a file that
    is missing, truncated, damaged, too large, or of another format.
    """
    try:
        with _open_bytes(path) as file:
            for number, task in enumerate(_iter_tasks(_BoundedReader(file, path), path), 1):
                yield from _iter_tables(task, f"{path}: task {number}", depth=0)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip file is truncated or damaged: {error}") from None
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _open_bytes(path: Path) -> io.BufferedIOBase:
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if is_gzip else path.open("rb")


class _BoundedReader:
    """A file for ijson, without its byte order mark; refuses more than a task may have."""

    def __init__(self, file: io.BufferedIOBase, path: Path) -> None:
        self._file, self._path = file, path
        self.n_read = self.n_read_of_task = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, ``size`` at most."""
        chunk = self._file.read(size)
        if not self.n_read:
            while chunk and len(chunk) < len(_BYTE_ORDER_MARK):
                chunk += (more := self._file.read(size))
                if not more:
                    break
            chunk = chunk.removeprefix(_BYTE_ORDER_MARK)
        self.n_read += len(chunk)
        self.n_read_of_task += len(chunk)
        if self.n_read > MAX_BYTES or self.n_read_of_task > MAX_TASK_BYTES:
            raise DataError(
                f"{self._path}: too large for evaluation tables: more than "
                f"{MAX_TASK_BYTES:,} bytes in one task, or {MAX_BYTES:,} in all"
            )
        return chunk


def _iter_tasks(reader: _BoundedReader, path: Path) -> Iterator[object]:
    """Yield the elements of the list that the file is.

    Built event by event, as ijson's own ``items`` keeps a prefix as long as the nesting is deep for
    each level: of 100,000 brackets, 25 GB.
    """
    import ijson

    depth = n_whole = 0
    builder = ijson.ObjectBuilder()
    try:
        for event, value in ijson.basic_parse(reader, buf_size=_CHUNK, use_float=True):
            depth += (event in _OPENING) - (event in _CLOSING)
            _check_structure(path, event, depth)
            if depth == 0 or (depth == 1 and event == "start_array"):
                continue  # the list itself
            builder.event(event, value)
            if depth == 1:
                yield builder.value
                builder, n_whole = ijson.ObjectBuilder(), n_whole + 1
                reader.n_read_of_task = 0
    except (ijson.JSONError, ValueError) as error:
        reason = "it is empty" if not reader.n_read else _first_line(error)
        raise DataError(
            f"{path}: truncated or damaged after {n_whole} whole tasks: {reason}"
        ) from None


def _check_structure(path: Path, event: str, depth: int) -> None:
    """Raise DataError for what is no list on the outside, or nested too deeply."""
    is_outside = depth == 0 or (depth == 1 and event == "start_map")
    if is_outside and event not in _CLOSING:
        kind = "an object" if event == "start_map" else f"a {event}"
        raise DataError(f"{path}: not evaluation tables: a list of tasks belongs here, not {kind}")
    if depth > _MAX_JSON_DEPTH:
        raise DataError(f"{path}: nested too deeply for evaluation tables")


def _first_line(error: Exception) -> str:
    text = error.args[0] if error.args else ""
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return text.partition("\n")[0][:200]


def _iter_tables(task: object, location: str, *, depth: int) -> Iterator[ArchiveTable]:
    if not isinstance(task, Mapping) or not isinstance(task.get("task"), str):
        raise DataError(f"{location}: not evaluation tables: a task needs a name under `task`")
    if depth > MAX_DEPTH:
        raise DataError(f"{location}: nested too deeply for evaluation tables")
    for dataset in _as_list(task.get("datasets")):
        yield from _iter_dataset_tables(task["task"], dataset, depth=depth)
    for subtask in _as_list(task.get("subtasks")):
        yield from _iter_tables(subtask, location, depth=depth + 1)


def _iter_dataset_tables(task: str, dataset: object, *, depth: int) -> Iterator[ArchiveTable]:
    if not isinstance(dataset, Mapping) or depth > MAX_DEPTH:
        return
    name = dataset.get("dataset") or dataset.get("subdataset")
    sota = dataset.get("sota")
    if isinstance(name, str) and isinstance(sota, Mapping):
        rows = _as_list(sota.get("rows"))
        valid_rows = tuple(row for row in rows if _is_row(row))
        metrics = tuple(
            metric for metric in _as_list(sota.get("metrics")) if isinstance(metric, str)
        )
        if rows:
            yield ArchiveTable(task, name, metrics, valid_rows, len(rows) - len(valid_rows))
    for subdataset in _as_list(dataset.get("subdatasets")):
        yield from _iter_dataset_tables(task, subdataset, depth=depth + 1)


def _is_row(row: object) -> TypeGuard[ArchiveRow]:
    return (
        isinstance(row, Mapping)
        and isinstance(row.get("model_name"), str)
        and bool(row["model_name"].strip())
        and isinstance(row.get("metrics"), Mapping)
    )


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
