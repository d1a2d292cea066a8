"""`recipe diff`: print where recipes depart from another, each value with its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli.render import print_json, print_table, say
from lsqctl.cli.state import Json, get_settings

if TYPE_CHECKING:
    from lsqctl.api.recipe_diff import RecipeDiff, Deviation

LeftRecipe = Annotated[str, typer.Argument(help="A recipe, a cell of a sweep by its name, or a run.")]
RightRecipe = Annotated[
    str | None, typer.Argument(help="The same, or a base; left out: what each cell extends.")
]
ExitCode = Annotated[
    bool, typer.Option("--exit-code", help="End with 1 where something differs, as `git diff`.")
]


def diff(
    ctx: typer.Context,
    left: LeftRecipe,
    right: RightRecipe = None,
    exit_code: ExitCode = False,
    json: Json = False,
) -> None:
    """List every deviation of one recipe from another; of a sweep, for each cell."""
    from lsqctl.api.recipe_diff import diff_recipes

    diffs = diff_recipes(left, right, get_settings(ctx))
    if json:
        print_json({"comparisons": diffs})
    else:
        _print_diffs(diffs)
    if exit_code and any(recipe_diff.deviations for recipe_diff in diffs):
        raise typer.Exit(1)


def _print_diffs(diffs: Sequence[RecipeDiff]) -> None:
    """Print each deviation once, with the cells that have it where not all do."""
    prefix_length = _common_prefix_length([recipe_diff.left for recipe_diff in diffs])
    sources_by_deviation: dict[tuple[str, str, str], _DeviationSources] = {}
    for recipe_diff in diffs:
        for deviation in recipe_diff.deviations:
            key = (deviation.key, _value_text(deviation.left), _value_text(deviation.right))
            sources_by_deviation.setdefault(key, _DeviationSources()).add(deviation, recipe_diff.left[prefix_length:])
    if sources_by_deviation:
        print_table(
            ("key", "mine", "theirs", "mine is from", "theirs is from", "cells"),
            [(*key, *sources.texts(len(diffs))) for key, sources in sources_by_deviation.items()],
            hide_first=("theirs is from", "mine is from"),
        )
    right_names = ", ".join(dict.fromkeys(recipe_diff.right for recipe_diff in diffs))
    left_names = diffs[0].left if len(diffs) == 1 else f"{len(diffs)} cells of {diffs[0].left[:prefix_length]}…"
    say(f"{len(sources_by_deviation) or 'no'} deviation{'s' * (len(sources_by_deviation) != 1)} of {left_names} from {right_names}")


class _DeviationSources:
    """Where the two values of one deviation are written, and in which cells it is."""

    def __init__(self) -> None:
        self.left: dict[str, None] = {}
        self.right: dict[str, None] = {}
        self.cells: list[str] = []

    def add(self, deviation: Deviation, cell: str) -> None:
        self.left[deviation.left_source] = None
        self.right[deviation.right_source] = None
        self.cells.append(cell)

    def texts(self, n_cells: int) -> tuple[str, str, str]:
        cell_names = "" if len(self.cells) == n_cells else " ".join(self.cells)
        return ", ".join(self.left), ", ".join(self.right), cell_names


def _common_prefix_length(names: Sequence[str]) -> int:
    """Return how many letters the names of a sweep's cells share, up to a dash."""
    length = 0
    while len(names) > 1 and all(length < len(name) and name[length] == names[0][length] for name in names):
        length += 1
    return names[0].rfind("-", 0, length) + 1 if names else 0


def _value_text(value: object) -> str:
    from lsqctl.recipe_file.writing import scalar

    return "–" if value is None else scalar(value)
