"""The options of `submit`, `run` and `worker`: each with its parser and its help, once."""

from __future__ import annotations

from typing import Annotated

import typer

from lsqctl.cli import completing
from lsqctl.cli.durations import positive_duration
from lsqctl.cli.state import natural, positive, whole
from lsqctl.run import IfExists
from lsqctl.settings import Compile

Recipes = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE",
        help="Recipe files, or names of bundled recipes.",
        autocompletion=completing.recipes,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of every recipe; repeatable."),
]
Seeds = Annotated[
    list[int] | None,
    typer.Option(
        "--seed", parser=whole, metavar="N", help="Seed of every recipe; repeat for several."
    ),
]
Exists = Annotated[
    IfExists, typer.Option(help="For a run that is there already: leave it, run anew, or refuse.")
]
Priority = Annotated[int, typer.Option(parser=whole, metavar="N", help="Higher runs first.")]
Hold = Annotated[bool, typer.Option("--hold", help="Start none before `lsqctl runs release`.")]
FailFast = Annotated[
    bool, typer.Option("--fail-fast", help="Stop the sweep at its first failed cell.")
]
MaxFailures = Annotated[
    int | None,
    typer.Option(parser=natural, metavar="N", help="Stop the sweep at N failed cells; 0: never."),
]
SkipData = Annotated[
    bool, typer.Option("--skip-data-check", help="The workers have the data, this machine not.")
]
Slots = Annotated[
    int | None,
    typer.Option(
        parser=whole, metavar="N", help="Attempts at a time: shares of the CPU, or of each GPU."
    ),
]
Gpus = Annotated[
    str,
    typer.Option(
        metavar="WHICH",
        help="auto (idle GPUs; the CPU where there is none), all, none (the CPU), or 0,2.",
    ),
]
Reserved = Annotated[
    int,
    typer.Option("--gpus", parser=positive, metavar="N", help="Reserve N whole GPUs for each run."),
]
Compiling = Annotated[
    Compile | None,
    typer.Option(
        help="Compile networks: where it repays itself, always, or never; LSQCTL_COMPILE.",
    ),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        parser=positive_duration,
        metavar="TIME",
        help="Save and fail an attempt that takes longer: 90m, 2h, 1h30m, or seconds.",
    ),
]
