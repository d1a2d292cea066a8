"""The board in the form of a Papers With Code page: Task, Dataset, Metric, Value, Model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.resources import as_file, files
from typing import Literal

from lsqctl.errors import NotFound, did_you_mean
from lsqctl.leaderboard.archive import read_tables
from lsqctl.leaderboard.board import Board, Entry
from lsqctl.leaderboard.clean import clean
from lsqctl.leaderboard.columns import SCHEMA_VERSION
from lsqctl.leaderboard.formats import guard
from lsqctl.leaderboard.markdown import escape_markdown
from lsqctl.leaderboard.published import PublishedRow, dataset_key, published_rows
from lsqctl.leaderboard.view import Cell, ViewColumn, ViewTable

TASK = "Quantization"
SPELLED = {
    "imagenet": "ImageNet",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
}
Origin = Literal["page", "imported", "own"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line: one metric of one row, as text. ``origin`` says whose row it is."""

    task: str
    dataset: str
    metric: str
    value: str
    model: str
    origin: Origin


HEADINGS = ("Task", "Dataset", "Metric", "Value", "Model")
_QUOTED = re.compile(r'[",\r\n\0]|^\s|\s$')  # the csv module leaves a lone \r as it is
_NAMES = tuple(field.name for field in fields(Line))[: len(HEADINGS)]


def page_lines(
    board: Board,
    imported: Iterable[PublishedRow] = (),
    *,
    dataset: str | None = None,
    page: bool = True,
) -> list[Line]:
    """Return the lines of the LSQ paper's page, of imported rows, and of the board's own rows.

    The page's lines stand as and where they stood on it; own quantized rows follow in the same
    form, the highest Top-1 of a dataset first, as on the page. ``page=False`` gives own ones alone.
    Raises NotFound for a ``dataset`` that no line is of.
    """
    known: dict[PublishedRow, Origin] = {}
    if page:
        known |= dict.fromkeys(lsq_page(), "page")
        same = {_told(row) for row in known}
        known |= dict.fromkeys((row for row in imported if _told(row) not in same), "imported")
    lines = [line for row, origin in known.items() for line in _published(row, origin)]
    for table in board.tables:
        ranked = [e for e in table.rows if e.own and not e.full_precision]
        for entry in sorted(ranked, key=lambda entry: -entry.top1_mean):
            lines += _own(entry)
    return lines if dataset is None else _of_dataset(lines, dataset)


@cache
def lsq_page() -> tuple[PublishedRow, ...]:
    """Return the rows of the LSQ paper's page on Papers With Code, in its order."""
    with as_file(files("lsqctl.leaderboard").joinpath("lsq_page.json")) as path:
        return tuple(row for table in read_tables(path) for row in published_rows(table))


def lines_table(lines: Sequence[Line]) -> ViewTable:
    """Return the lines as cells for a terminal."""
    columns = tuple(
        ViewColumn(name, heading, "right" if name == "value" else "left", drop)
        for name, heading, drop in zip(_NAMES, HEADINGS, (1, 2, 0, 0, 0), strict=True)
    )
    rows = tuple(
        tuple(Cell(clean(getattr(line, name)), dim=line.origin != "own") for name in _NAMES)
        for line in lines
    )
    own = sum(line.origin == "own" for line in lines)
    footer = f"{len(lines) - own} published lines, {own} of own runs"
    return ViewTable("Results in the form of Papers With Code", columns, rows, footer)


def lines_csv(lines: Sequence[Line]) -> str:
    """Return the lines as CSV: LF, one header, formulas guarded as in the board's CSV."""
    rows = [_NAMES, *([guard(getattr(line, name)) for name in _NAMES] for line in lines)]
    return "".join(",".join(map(_quoted, row)) + "\n" for row in rows)


def lines_json(lines: Sequence[Line]) -> str:
    """Return the lines as JSON; values are texts, as in the archive."""
    document = {"schema_version": SCHEMA_VERSION, "lines": [asdict(line) for line in lines]}
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def lines_markdown(lines: Sequence[Line]) -> str:
    """Return the lines as one markdown table."""
    rows = [HEADINGS, (":---", ":---", ":---", "---:", ":---")]
    cells = [[escape_markdown(clean(getattr(line, name))) for name in _NAMES] for line in lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in [*rows, *cells])


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


def _told(row: PublishedRow) -> tuple[object, ...]:
    return row.task, row.dataset, row.model, row.metrics


def _published(row: PublishedRow, origin: Origin) -> Iterable[Line]:
    for metric, value in row.metrics:
        yield Line(row.task, row.dataset, metric, value, row.model, origin)


def _own(entry: Entry) -> Iterable[Line]:
    values = {
        "Activation bits": str(entry.a_bits),
        "Top-1 Accuracy (%)": repr(round(entry.top1_mean, 3)).removesuffix(".0"),
        "Weight bits": str(entry.w_bits),
    }
    dataset = SPELLED.get(entry.dataset, entry.dataset)
    for metric, value in values.items():
        yield Line(TASK, dataset, metric, value, entry.model, "own")


def _of_dataset(lines: list[Line], dataset: str) -> list[Line]:
    chosen = [one for one in lines if dataset_key(one.dataset) == dataset_key(dataset)]
    known = {dataset_key(one.dataset) for one in lines}
    if lines and not chosen:
        raise NotFound(
            f"no line is of dataset `{dataset}`{did_you_mean(dataset, known)}; there are "
            f"{', '.join(sorted(known))}"
        )
    return chosen
