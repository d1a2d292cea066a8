"""`verify`: measure stored checkpoints again and compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lsqctl.cli import completing
from lsqctl.cli.render import error_line, print_json, print_table, say
from lsqctl.cli.state import Json, positive, settings, workspace
from lsqctl.errors import UsageError

if TYPE_CHECKING:
    from lsqctl.api.verify import Verdict

Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN]...",
        help="Ids, unique prefixes, names, or @last.",
        autocompletion=completing.runs,
    ),
]
_WORDS = {True: "verified", False: "NOT verified", None: "not tried"}


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command(epilog="Example: lsqctl verify @last")(verify)


def verify(
    ctx: typer.Context,
    runs: Runs = None,
    every: Annotated[bool, typer.Option("--all", help="Every succeeded run.")] = False,
    sweep: Annotated[
        str | None, typer.Option(metavar="NAME", help="Every succeeded cell of this sweep.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(parser=positive, metavar="N", help="Default: as many as in the training."),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="Default: that of the training.")
    ] = None,
    json: Json = False,
) -> None:
    """Evaluate results again from their hash-checked checkpoints; exit 1 unless all are equal.

    The board then says `verified`, or that the verification failed.
    """
    from lsqctl.api import verify as api

    if not (runs or every or sweep):
        raise UsageError("name a run, or use --all or --sweep NAME")
    verdicts: list[Verdict] = []
    with workspace(ctx) as store:
        for run in api.runs_to_verify(store, runs or (), sweep=sweep, every=every):
            found = api.verify_run(store, settings(ctx), run.id, threads=threads, device=device)
            for verdict in found:
                verdicts.append(verdict)
                if verdict.message:
                    error_line(f"{verdict.run_id} {_label(verdict)}: {verdict.message}")
    if json:
        print_json({"results": verdicts})
    else:
        _print(verdicts)
    if any(not one.verified for one in verdicts):
        raise typer.Exit(1)


def _print(verdicts: list[Verdict]) -> None:
    if not verdicts:
        say("no finished run to verify yet; `lsqctl worker --until-empty` works the queue")
        return
    print_table(
        ("id", "run", "result", "stored", "measured", "verdict"),
        [
            (
                one.run_id,
                one.name,
                _label(one),
                f"{one.n_correct}/{one.n_total}",
                "" if one.measured is None else f"{one.measured}/{one.n_total}",
                _WORDS[one.verified],
            )
            for one in verdicts
        ],
        right=("stored", "measured"),
        styles={"verified": "green", "NOT verified": "red", "not tried": "yellow"},
    )
    good = sum(one.verified is True for one in verdicts)
    say(f"{good} of {len(verdicts)} results verified")


def _label(one: Verdict) -> str:
    return one.selection if one.variant == "raw" else f"{one.variant} {one.selection}"
