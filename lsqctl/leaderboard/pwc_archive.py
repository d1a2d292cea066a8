"""Read the Papers With Code archive's evaluation tables: a JSON file of any size, task by task.

The format is sota-extractor's: a list of tasks, each with datasets (and subdatasets) that hold
``sota.metrics`` and ``sota.rows``, and with subtasks like itself. Its data are under CC-BY-SA 4.0.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lsqctl.errors import DataError

ARCHIVE_LICENCE = "CC-BY-SA 4.0"
MAX_CHARACTERS = 2_000_000_000
MAX_TASK_CHARACTERS = 200_000_000
MAX_DEPTH = 50
_CHUNK = 1_000_000
_WHITESPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class ArchiveTable:
    """The rows of one task on one dataset, as they stand in the file.

    ``metrics`` gives the order of the columns; ``n_skipped`` counts what stood among the rows and
    was none.
    """

    task: str
    dataset: str
    metrics: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    n_skipped: int = 0


def read_tables(path: Path) -> Iterator[ArchiveTable]:
    """Yield every table of an archive file, plain or gzipped, in its order.

    Only one top-level task is in memory at a time. Raises DataError, in one line, for a file that
    is missing, truncated, damaged, too large, or of another format.
    """
    try:
        with _open_text(path) as text:
            for number, task in enumerate(_iter_elements(text, path), 1):
                yield from _iter_tables(task, f"{path}: task {number}", depth=0)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason})") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip file is truncated or damaged: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply for evaluation tables") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _open_text(path: Path) -> IO[str]:
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return (
        gzip.open(path, "rt", encoding="utf-8-sig") if is_gzip else path.open(encoding="utf-8-sig")
    )


class _JsonWindow:
    """The part of a text that is being parsed, from ``at`` on; what was parsed is let go."""

    def __init__(self, text: IO[str], path: Path) -> None:
        self._text, self._path = text, path
        self.buffer, self.position = "", 0
        self.n_read = 0
        self.at_end = False

    def read_more(self) -> None:
        """Read as much again as is held, so that a long task is not parsed too often."""
        unparsed = self.buffer[self.position :]
        chunk = self._text.read(max(_CHUNK, len(unparsed)))
        self.at_end = not chunk
        self.n_read += len(chunk)
        self.buffer, self.position = unparsed + chunk, 0
        if self.n_read > MAX_CHARACTERS or len(self.buffer) > MAX_TASK_CHARACTERS:
            raise DataError(
                f"{self._path}: too large for evaluation tables: more than "
                f"{MAX_TASK_CHARACTERS:,} characters in one task, or {MAX_CHARACTERS:,} in all"
            )

    def peek(self) -> str:
        """Return the next character that is no blank, without taking it; empty at the end."""
        while True:
            self.position = _WHITESPACE.match(self.buffer, self.position).end()  # type: ignore[union-attr]
            if self.position < len(self.buffer) or self.at_end:
                return self.buffer[self.position : self.position + 1]
            self.read_more()


def _iter_elements(text: IO[str], path: Path) -> Iterator[Any]:
    """Yield the elements of the list that the text is."""
    window = _JsonWindow(text, path)
    if (first := window.peek()) != "[":
        beginning = f"it begins with {first!r}" if first else "it is empty"
        raise DataError(
            f"{path}: not evaluation tables: {beginning}, and a list of tasks belongs here"
        )
    window.position += 1
    number = 0
    while (character := window.peek()) != "]":
        if number and character == ",":
            window.position += 1
            window.peek()
        elif number:
            raise _damaged_error(
                path, number, "a comma is missing" if character else "the file ends"
            )
        yield _decode_element(window, path, number)
        number += 1
    window.position += 1
    if window.peek():
        raise _damaged_error(path, number, "something follows the list")


def _decode_element(window: _JsonWindow, path: Path, number: int) -> Any:
    decoder = json.JSONDecoder()
    while True:
        try:
            value, window.position = decoder.raw_decode(window.buffer, window.position)
        except json.JSONDecodeError as error:
            window.read_more()
            if window.at_end:
                raise _damaged_error(path, number, error.msg) from None
        except ValueError as error:  # a number of ten thousand digits
            raise _damaged_error(path, number, str(error)) from None
        else:
            return value


def _damaged_error(path: Path, n_whole: int, reason: str) -> DataError:
    return DataError(f"{path}: truncated or damaged after {n_whole} whole tasks: {reason}")


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


def _is_row(row: object) -> bool:
    return (
        isinstance(row, Mapping)
        and isinstance(row.get("model_name"), str)
        and bool(row["model_name"].strip())
        and isinstance(row.get("metrics"), Mapping)
    )


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
