"""Print how recipes' trials go: one line each, as it is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from lsqctl.cli.render import print_json, say
from lsqctl.leaderboard.clean import clean
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.api.smoke import SmokeTest
    from lsqctl.recipe_file import LoadedRecipe


def print_smoke_tests(recipes: Sequence[LoadedRecipe], settings: Settings, *, json: bool) -> None:
    """Try each recipe and print a line for it; ends with 1 where one failed."""
    from lsqctl.api.smoke import smoke_tests

    tests = []
    for one in smoke_tests(recipes, settings):
        tests.append(one)
        if not json:
            print(clean(_line(one)), flush=True)
    failed = sum(bool(one.error) for one in tests)
    if json:
        print_json({"smoke": tests})
    else:
        took = sum(one.seconds for one in tests)
        say(f"{len(tests)} recipes tried in {took:.0f} s, {failed or 'none'} failed")
    if failed:
        raise typer.Exit(1)


def _line(one: SmokeTest) -> str:
    if one.error:
        return f"failed  {one.name}: {one.error}"
    return f"ok      {one.name}: {one.seconds:.1f} s, loss {one.loss:.2f}, {one.images} images"
