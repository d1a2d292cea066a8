"""`recipe diff`: print where recipes depart from another, each value with its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli.render import print_json, print_table, say
from lsqctl.cli.state import Json, settings

if TYPE_CHECKING:
    from lsqctl.api.recipe_diff import Comparison, Deviation

Mine = Annotated[str, typer.Argument(help="A recipe, a cell of a sweep by its name, or a run.")]
Theirs = Annotated[
    str | None, typer.Argument(help="The same, or a base; left out: what each cell extends.")
]
ExitCode = Annotated[
    bool, typer.Option("--exit-code", help="End with 1 where something differs, as `git diff`.")
]


def diff(
    ctx: typer.Context,
    mine: Mine,
    theirs: Theirs = None,
    exit_code: ExitCode = False,
    json: Json = False,
) -> None:
    """List every deviation of one recipe from another; of a sweep, for each cell."""
    from lsqctl.api.recipe_diff import diff_recipes

    found = diff_recipes(mine, theirs, settings(ctx))
    if json:
        print_json({"comparisons": found})
    else:
        _print(found)
    if exit_code and any(one.deviations for one in found):
        raise typer.Exit(1)


def _print(found: Sequence[Comparison]) -> None:
    """Print each deviation once, with the cells that have it where not all do."""
    common = _common_start([one.mine for one in found])
    told: dict[tuple[str, str, str], _Places] = {}
    for one in found:
        for each in one.deviations:
            key = (each.key, _text(each.mine), _text(each.theirs))
            told.setdefault(key, _Places()).add(each, one.mine[common:])
    if told:
        print_table(
            ("key", "mine", "theirs", "mine is from", "theirs is from", "cells"),
            [(*key, *places.texts(len(found))) for key, places in told.items()],
            give_way=("theirs is from", "mine is from"),
        )
    theirs = ", ".join(dict.fromkeys(one.theirs for one in found))
    of = found[0].mine if len(found) == 1 else f"{len(found)} cells of {found[0].mine[:common]}…"
    say(f"{len(told) or 'no'} deviation{'s' * (len(told) != 1)} of {of} from {theirs}")


class _Places:
    """Where the two values of one deviation stand, and in which cells it is."""

    def __init__(self) -> None:
        self.mine: dict[str, None] = {}
        self.theirs: dict[str, None] = {}
        self.cells: list[str] = []

    def add(self, deviation: Deviation, cell: str) -> None:
        self.mine[deviation.mine_from] = None
        self.theirs[deviation.theirs_from] = None
        self.cells.append(cell)

    def texts(self, cells: int) -> tuple[str, str, str]:
        named = "" if len(self.cells) == cells else " ".join(self.cells)
        return ", ".join(self.mine), ", ".join(self.theirs), named


def _common_start(names: Sequence[str]) -> int:
    """Return how many letters the names of a sweep's cells share, up to a dash."""
    shared = 0
    while len(names) > 1 and all(shared < len(n) and n[shared] == names[0][shared] for n in names):
        shared += 1
    return names[0].rfind("-", 0, shared) + 1 if names else 0


def _text(value: object) -> str:
    from lsqctl.recipe_file.writing import scalar

    return "–" if value is None else scalar(value)
