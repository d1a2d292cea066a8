"""`compare`: answer whether A is better than B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli import completion
from lsqctl.cli.console import note, print_json, print_prose, print_table, say, to_json_types
from lsqctl.cli.options import Json, open_store
from lsqctl.text import format_signed

if TYPE_CHECKING:
    from lsqctl.leaderboard.comparison import Comparison

_HELP = (
    "A run (id, prefix, @last), a recipe's name (all its seeds), or else a sweep (always with "
    ":sweep); with :deployed, their files."
)
First = Annotated[
    str, typer.Argument(metavar="A", help=_HELP, autocompletion=completion.runs_and_sweeps)
]
Second = Annotated[
    str, typer.Argument(metavar="B", help="The same.", autocompletion=completion.runs_and_sweeps)
]


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command(epilog="Example: lsqctl compare @last @last~1")(compare)


def compare(ctx: typer.Context, first_ref: First, second_ref: Second, json: Json = False) -> None:
    """Say whether A is better than B.

    The difference in Top-1, its interval, the test and p.

    Runs are paired by seed and image by image where they match (McNemar's test, a paired t-test),
    else compared by Welch's test. Of several tests the most cautious one decides. A sweep is
    compared with another cell by cell, and with one recipe each of its cells by itself.
    """
    from lsqctl.services.compare import CellComparisons, compare_cells

    with open_store(ctx) as store:
        found = compare_cells(store, first_ref, second_ref)
    if json:
        print_json(to_json_types(found))
        return
    print_prose(found.answer)
    if isinstance(found, CellComparisons):
        _print_cells(found.comparisons)
    else:
        _print_comparison(found)
    for text in found.notes:
        note(text)


def _print_cells(comparisons: Sequence[Comparison]) -> None:
    print_table(
        ("A", "n", "A %", "B", "n", "B %", "A − B", "95 % interval", "p", "A is"),
        [
            (
                one.first.label,
                str(one.first.n),
                f"{one.first.top1_mean:.2f}",
                one.second.label,
                str(one.second.n),
                f"{one.second.top1_mean:.2f}",
                format_signed(one.difference),
                f"{format_signed(one.low)} to {format_signed(one.high)}",
                f"{one.p:.2g}",
                one.verdict,
            )
            for one in comparisons
        ],
        right_aligned=("n", "A %", "B %", "A − B", "95 % interval", "p"),
        hide_first=("n", "95 % interval"),
        names=("A", "B"),
    )


def _print_comparison(comparison: Comparison) -> None:
    from lsqctl.leaderboard.comparison import format_p

    def percent_text(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    print_table(
        ("cell", "seed", "A run", "A %", "B run", "B %", "A − B", "only A", "only B", "p"),
        [
            (
                row.cell,
                str(row.seed),
                row.first_run or "",
                percent_text(row.first_top1),
                row.second_run or "",
                percent_text(row.second_top1),
                "" if row.difference is None else format_signed(row.difference),
                "" if row.only_first is None else str(row.only_first),
                "" if row.only_second is None else str(row.only_second),
                "" if row.p is None else f"{row.p:.2g}",
            )
            for row in comparison.rows
        ],
        right_aligned=("seed", "A %", "B %", "A − B", "only A", "only B", "p"),
        hide_first=("A run", "B run", "p"),
    )
    for test in comparison.tests:
        interval = f"{format_signed(test.low)} to {format_signed(test.high)}"
        say(f"{test.name}: {format_signed(test.difference)} ({interval}), {format_p(test.p)}")
