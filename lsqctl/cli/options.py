"""Options of several commands and the parsers of their values: each with its help, once."""

from __future__ import annotations

from typing import Annotated

import typer

from lsqctl.cli import completion
from lsqctl.cli.context import any_int, non_negative_int, positive_int
from lsqctl.run import IfExists
from lsqctl.settings import CompileMode
from lsqctl.text import parse_duration


def duration_seconds(text: str | float) -> float:
    """Parse an option's time span, in plain words when it is none."""
    try:
        return parse_duration(str(text))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def positive_duration_seconds(text: str | float) -> float:
    """Parse an option's time span above zero."""
    seconds = duration_seconds(text)
    if seconds <= 0:
        raise typer.BadParameter(f"must be above zero, got `{text}`")
    return seconds


Recipes = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE",
        help="Recipe files, or names of bundled recipes.",
        autocompletion=completion.recipes,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of every recipe; repeatable."),
]
Seeds = Annotated[
    list[int] | None,
    typer.Option(
        "--seed", parser=any_int, metavar="N", help="Seed of every recipe; repeat for several."
    ),
]
IfExistsOption = Annotated[
    IfExists, typer.Option(help="For a run that is there already: leave it, run anew, or refuse.")
]
Priority = Annotated[int, typer.Option(parser=any_int, metavar="N", help="Higher runs first.")]
Hold = Annotated[bool, typer.Option("--hold", help="Start none before `lsqctl runs release`.")]
FailFast = Annotated[
    bool, typer.Option("--fail-fast", help="Stop the sweep at its first failed cell.")
]
MaxFailures = Annotated[
    int | None,
    typer.Option(
        parser=non_negative_int, metavar="N", help="Stop the sweep at N failed cells; 0: never."
    ),
]
SkipDataCheck = Annotated[
    bool, typer.Option("--skip-data-check", help="The workers have the data, this machine not.")
]
Slots = Annotated[
    int | None,
    typer.Option(
        parser=any_int, metavar="N", help="Attempts at a time; they divide the CPU, or each GPU."
    ),
]
WorkerGpus = Annotated[
    str,
    typer.Option(
        metavar="WHICH",
        help="auto (idle GPUs; the CPU where there is none), all, none (the CPU), or 0,2.",
    ),
]
ReservedGpus = Annotated[
    int,
    typer.Option(
        "--gpus", parser=positive_int, metavar="N", help="Reserve N whole GPUs for each run."
    ),
]
CompileOption = Annotated[
    CompileMode | None,
    typer.Option(
        help="Compile networks: where it repays itself, always, or never; LSQCTL_COMPILE.",
    ),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        parser=positive_duration_seconds,
        metavar="TIME",
        help="Save and fail an attempt that takes longer: 90m, 2h, 1h30m, or seconds.",
    ),
]
