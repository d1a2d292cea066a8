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

LICENCE = "CC-BY-SA 4.0"
MAX_CHARACTERS = 2_000_000_000
MAX_TASK_CHARACTERS = 200_000_000
MAX_DEPTH = 50
_CHUNK = 1_000_000
_BLANKS = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class ArchiveTable:
    """The rows of one task on one dataset, as they stand in the file.

    ``metrics`` gives the order of the columns; ``skipped`` counts what stood among the rows and
    was none.
    """

    task: str
    dataset: str
    metrics: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    skipped: int = 0


def read_tables(path: Path) -> Iterator[ArchiveTable]:
    """Yield every table of an archive file, plain or gzipped, in its order.

    Only one top-level task is in memory at a time. Raises DataError, in one line, for a file that
    is missing, truncated, damaged, too large, or of another format.
    """
    try:
        with _opened(path) as text:
            for number, task in enumerate(_elements(text, path), 1):
                yield from _tables(task, f"{path}: task {number}", depth=0)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason})") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip file is truncated or damaged: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply for evaluation tables") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _opened(path: Path) -> IO[str]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return (
        gzip.open(path, "rt", encoding="utf-8-sig") if packed else path.open(encoding="utf-8-sig")
    )


class _Window:
    """The part of a text that is being parsed, from ``at`` on; what was parsed is let go."""

    def __init__(self, text: IO[str], path: Path) -> None:
        self._text, self._path = text, path
        self.buffer, self.at = "", 0
        self.seen = 0
        self.ended = False

    def more(self) -> None:
        """Read as much again as is held, so that a long task is not parsed too often."""
        rest = self.buffer[self.at :]
        chunk = self._text.read(max(_CHUNK, len(rest)))
        self.ended = not chunk
        self.seen += len(chunk)
        self.buffer, self.at = rest + chunk, 0
        if self.seen > MAX_CHARACTERS or len(self.buffer) > MAX_TASK_CHARACTERS:
            raise DataError(
                f"{self._path}: too large for evaluation tables: more than "
                f"{MAX_TASK_CHARACTERS:,} characters in one task, or {MAX_CHARACTERS:,} in all"
            )

    def next_character(self) -> str:
        """Return the next character that is no blank, without taking it; empty at the end."""
        while True:
            self.at = _BLANKS.match(self.buffer, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.buffer) or self.ended:
                return self.buffer[self.at : self.at + 1]
            self.more()


def _elements(text: IO[str], path: Path) -> Iterator[Any]:
    """Yield the elements of the list that the text is."""
    window = _Window(text, path)
    if (first := window.next_character()) != "[":
        found = f"it begins with {first!r}" if first else "it is empty"
        raise DataError(f"{path}: not evaluation tables: {found}, and a list of tasks belongs here")
    window.at += 1
    number = 0
    while (char := window.next_character()) != "]":
        if number and char == ",":
            window.at += 1
            window.next_character()
        elif number:
            raise _broken(path, number, "a comma is missing" if char else "the file ends")
        yield _element(window, path, number)
        number += 1
    window.at += 1
    if window.next_character():
        raise _broken(path, number, "something follows the list")


def _element(window: _Window, path: Path, number: int) -> Any:
    decoder = json.JSONDecoder()
    while True:
        try:
            value, window.at = decoder.raw_decode(window.buffer, window.at)
        except json.JSONDecodeError as error:
            window.more()
            if window.ended:
                raise _broken(path, number, error.msg) from None
        except ValueError as error:  # a number of ten thousand digits
            raise _broken(path, number, str(error)) from None
        else:
            return value


def _broken(path: Path, number: int, why: str) -> DataError:
    return DataError(f"{path}: truncated or damaged after {number} whole tasks: {why}")


def _tables(task: object, where: str, *, depth: int) -> Iterator[ArchiveTable]:
    if not isinstance(task, Mapping) or not isinstance(task.get("task"), str):
        raise DataError(f"{where}: not evaluation tables: a task needs a name under `task`")
    if depth > MAX_DEPTH:
        raise DataError(f"{where}: nested too deeply for evaluation tables")
    for dataset in _list(task.get("datasets")):
        yield from _datasets(task["task"], dataset, depth=depth)
    for subtask in _list(task.get("subtasks")):
        yield from _tables(subtask, where, depth=depth + 1)


def _datasets(task: str, dataset: object, *, depth: int) -> Iterator[ArchiveTable]:
    if not isinstance(dataset, Mapping) or depth > MAX_DEPTH:
        return
    name = dataset.get("dataset") or dataset.get("subdataset")
    sota = dataset.get("sota")
    if isinstance(name, str) and isinstance(sota, Mapping):
        rows = _list(sota.get("rows"))
        good = tuple(row for row in rows if _is_row(row))
        metrics = tuple(one for one in _list(sota.get("metrics")) if isinstance(one, str))
        if rows:
            yield ArchiveTable(task, name, metrics, good, len(rows) - len(good))
    for part in _list(dataset.get("subdatasets")):
        yield from _datasets(task, part, depth=depth + 1)


def _is_row(row: object) -> bool:
    return (
        isinstance(row, Mapping)
        and isinstance(row.get("model_name"), str)
        and bool(row["model_name"].strip())
        and isinstance(row.get("metrics"), Mapping)
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
