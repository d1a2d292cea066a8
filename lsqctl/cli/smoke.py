"""Print how recipes' trials go: one line each, as it is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from lsqctl.cli.render import print_json, say
from lsqctl.leaderboard.clean import clean
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.api.smoke import SmokeReport
    from lsqctl.recipe_file import LoadedRecipe


def print_smoke_tests(recipes: Sequence[LoadedRecipe], settings: Settings, *, json: bool) -> None:
    """Try each recipe and print a line for it; ends with 1 where one failed."""
    from lsqctl.api.smoke import run_smoke_tests

    reports = []
    for report in run_smoke_tests(recipes, settings):
        reports.append(report)
        if not json:
            print(clean(_smoke_line(report)), flush=True)
    n_failed = sum(bool(report.error) for report in reports)
    if json:
        print_json({"smoke": reports})
    else:
        seconds = sum(report.seconds for report in reports)
        say(f"{len(reports)} recipes tried in {seconds:.0f} s, {n_failed or 'none'} failed")
    if n_failed:
        raise typer.Exit(1)


def _smoke_line(report: SmokeReport) -> str:
    if report.error:
        return f"failed  {report.name}: {report.error}"
    return f"ok      {report.name}: {report.seconds:.1f} s, loss {report.loss:.2f}, {report.images} images"
