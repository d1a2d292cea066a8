"""The board as a Papers With Code page has it: Task, Dataset, Metric, Value, Model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.resources import as_file, files
from typing import Literal

from lsqctl.datasets import dataset_title
from lsqctl.errors import NotFound
from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.formats.csv_text import csv_text
from lsqctl.leaderboard.formats.markdown import escape_markdown
from lsqctl.leaderboard.published_results import PwcRow, dataset_key, pwc_rows
from lsqctl.leaderboard.pwc_archive import read_tables
from lsqctl.leaderboard.schema import SCHEMA_VERSION, Entry
from lsqctl.leaderboard.table_view import Cell, ViewColumn, ViewTable
from lsqctl.text import did_you_mean, sanitize

TASK = "Quantization"
LineOrigin = Literal["page", "imported", "local"]


@dataclass(frozen=True, slots=True)
class PwcLine:
    """One line: one metric of one row, as text. ``origin`` says whose row it is."""

    task: str
    dataset: str
    metric: str
    value: str
    model: str
    origin: LineOrigin


HEADINGS = ("Task", "Dataset", "Metric", "Value", "Model")
_LINE_FIELDS = tuple(field.name for field in fields(PwcLine))[: len(HEADINGS)]


def pwc_lines(
    board: Board,
    imported: Iterable[PwcRow] = (),
    *,
    dataset: str | None = None,
    include_published: bool = True,
) -> list[PwcLine]:
    """Return the lines of the LSQ paper's page, of imported rows, and of the board's local rows.

    The page's lines stand as and where they stood on it; local quantized rows follow in the same
    form, the highest Top-1 of a dataset first. ``include_published=False`` gives local ones alone.
    Raises NotFound for a ``dataset`` that no line is of.
    """
    origins: dict[PwcRow, LineOrigin] = {}
    if include_published:
        origins |= dict.fromkeys(lsq_page_rows(), "page")
        page_keys = {_content_key(row) for row in origins}
        origins |= dict.fromkeys(
            (row for row in imported if _content_key(row) not in page_keys), "imported"
        )
    lines = [line for row, origin in origins.items() for line in _published_lines(row, origin)]
    for table in board.tables:
        if table.partial:
            continue
        ranked = [entry for entry in table.rows if entry.is_local and not entry.is_full_precision]
        for entry in sorted(ranked, key=lambda entry: -entry.top1_mean):
            lines += _local_lines(entry)
    return lines if dataset is None else _filter_dataset(lines, dataset)


@cache
def lsq_page_rows() -> tuple[PwcRow, ...]:
    """Return the rows of the LSQ paper's page on Papers With Code, in its order."""
    with as_file(files("lsqctl.leaderboard").joinpath("lsq_page.json")) as path:
        return tuple(row for table in read_tables(path) for row in pwc_rows(table))


def pwc_table(lines: Sequence[PwcLine]) -> ViewTable:
    """Return the lines as cells for a terminal."""
    columns = tuple(
        ViewColumn(name, heading, "right" if name == "value" else "left", priority)
        for name, heading, priority in zip(_LINE_FIELDS, HEADINGS, (1, 2, 0, 0, 0), strict=True)
    )
    rows = tuple(
        tuple(
            Cell(sanitize(getattr(line, name)), dim=line.origin != "local") for name in _LINE_FIELDS
        )
        for line in lines
    )
    n_local = sum(line.origin == "local" for line in lines)
    footer = f"{len(lines) - n_local} published lines, {n_local} of local runs"
    return ViewTable("Results in the form of Papers With Code", columns, rows, footer)


def pwc_csv(lines: Sequence[PwcLine]) -> str:
    """Return the lines as CSV: LF, one header, formulas guarded as in the board's CSV."""
    return csv_text(
        [_LINE_FIELDS, *([getattr(line, name) for name in _LINE_FIELDS] for line in lines)]
    )


def pwc_json(lines: Sequence[PwcLine]) -> str:
    """Return the lines as JSON; values are texts, as in the archive."""
    document = {"schema_version": SCHEMA_VERSION, "lines": [asdict(line) for line in lines]}
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def pwc_markdown(lines: Sequence[PwcLine]) -> str:
    """Return the lines as one markdown table."""
    rows = [HEADINGS, (":---", ":---", ":---", "---:", ":---")]
    cells = [
        [escape_markdown(sanitize(getattr(line, name))) for name in _LINE_FIELDS] for line in lines
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in [*rows, *cells])


def _content_key(row: PwcRow) -> tuple[object, ...]:
    return row.task, row.dataset, row.model, row.metrics


def _published_lines(row: PwcRow, origin: LineOrigin) -> Iterable[PwcLine]:
    for metric, value in row.metrics:
        yield PwcLine(row.task, row.dataset, metric, value, row.model, origin)


def _local_lines(entry: Entry) -> Iterable[PwcLine]:
    values = {
        "Activation bits": str(entry.act_bits),
        "Top-1 Accuracy (%)": repr(round(entry.top1_mean, 3)).removesuffix(".0"),
        "Weight bits": str(entry.weight_bits),
    }
    dataset = dataset_title(entry.dataset)
    for metric, value in values.items():
        yield PwcLine(TASK, dataset, metric, value, entry.model, "local")


def _filter_dataset(lines: list[PwcLine], dataset: str) -> list[PwcLine]:
    matching = [line for line in lines if dataset_key(line.dataset) == dataset_key(dataset)]
    dataset_keys = {dataset_key(line.dataset) for line in lines}
    if lines and not matching:
        raise NotFound(
            f"no line is of dataset `{dataset}`{did_you_mean(dataset, dataset_keys)}; there are "
            f"{', '.join(sorted(dataset_keys))}"
        )
    return matching
