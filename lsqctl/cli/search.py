"""`sweep search`: a sampler chooses what is tried next, from what has been measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lsqctl.cli import completion
from lsqctl.cli.console import print_json, say
from lsqctl.cli.options import Json, get_settings, open_store, positive_int

if TYPE_CHECKING:
    from lsqctl.services.search import TrialResult


def register(app: typer.Typer) -> None:
    """Add the command of this module to `sweep`."""
    app.command(epilog="Example: lsqctl sweep search mine.yaml --trials 50 --parallel 4")(search)


def search(
    ctx: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe whose sweep has `random`.",
            autocompletion=completion.recipes,
        ),
    ],
    trials: Annotated[
        int,
        typer.Option(parser=positive_int, metavar="N", help="So many in all, earlier ones too."),
    ] = 20,
    parallel: Annotated[
        int, typer.Option(parser=positive_int, metavar="N", help="So many at a time.")
    ] = 1,
    sampler: Annotated[
        str, typer.Option(metavar="NAME", help="Optuna's tpe, gp, cmaes, qmc or random.")
    ] = "tpe",
    metric: Annotated[
        Literal["top1", "loss"], typer.Option(help="What is best, of the headline result.")
    ] = "top1",
    json: Json = False,
) -> None:
    """Let a sampler choose the values that `random` would draw.

    Workers train them meanwhile.

    Begun again, it goes on from what the sweep has. Ctrl-C leaves what is queued in the queue.
    """
    from lsqctl.services.search import SearchOptions
    from lsqctl.services.search import search as run_search

    def print_trial(result: TrialResult) -> None:
        mean = "failed" if result.mean is None else f"{metric} {result.mean:.4g}"
        if not json:
            print(f"{', '.join(result.run_ids)}\t{_values_text(result)}\t{mean}")

    options = SearchOptions(trials, parallel, sampler, metric)
    with open_store(ctx, create=True) as store:
        results = run_search(recipe, store, get_settings(ctx), options, on_told=print_trial)
    if json:
        print_json({"trials": results})
    known = [result for result in results if result.mean is not None]
    if known:
        best = (max if metric == "top1" else min)(known, key=lambda result: result.mean or 0.0)
        say(f"best of {len(results)} trials: {metric} {best.mean:.4g} with {_values_text(best)}")


def _values_text(result: TrialResult) -> str:
    return ", ".join(f"{key}={value}" for key, value in result.values.items())
