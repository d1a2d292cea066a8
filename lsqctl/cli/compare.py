"""`compare`: answer whether A is better than B."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli.render import note, plain, print_json, print_table, say
from lsqctl.cli.state import Json, workspace
from lsqctl.leaderboard.clean import clean

if TYPE_CHECKING:
    from lsqctl.leaderboard.comparison import Comparison

_HELP = "A run (id, prefix, @last), a recipe's name (all its seeds), or a sweep."
First = Annotated[str, typer.Argument(metavar="A", help=_HELP)]
Second = Annotated[str, typer.Argument(metavar="B", help="The same.")]


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command(epilog="Example: lsqctl compare @last @last~1")(compare)


def compare(ctx: typer.Context, first: First, second: Second, json: Json = False) -> None:
    """Say whether A is better than B: the difference in Top-1, its interval, the test and p.

    Runs are paired by seed and image by image where they match (McNemar's test, a paired t-test),
    else compared by Welch's test. Of several tests the most cautious one decides.
    """
    from lsqctl.api.compare import compare as api

    with workspace(ctx) as store:
        found = api(store, first, second)
    if json:
        print_json(plain(found))
        return
    print(clean(found.answer))
    _draw(found)
    for text in found.notes:
        note(text)


def _draw(found: Comparison) -> None:
    from lsqctl.leaderboard.comparison import p_text, points

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    print_table(
        ("cell", "seed", "A run", "A %", "B run", "B %", "A − B", "only A", "only B", "p"),
        [
            (
                row.cell,
                str(row.seed),
                row.first_run or "",
                number(row.first_top1),
                row.second_run or "",
                number(row.second_top1),
                "" if row.difference is None else points(row.difference),
                "" if row.only_first is None else str(row.only_first),
                "" if row.only_second is None else str(row.only_second),
                "" if row.p is None else f"{row.p:.2g}",
            )
            for row in found.rows
        ],
        right=("seed", "A %", "B %", "A − B", "only A", "only B", "p"),
        give_way=("A run", "B run", "p"),
    )
    for one in found.tests:
        interval = f"{points(one.low)} to {points(one.high)}"
        say(f"{one.name}: {points(one.difference)} ({interval}), {p_text(one.p)}")
