"""`verify`: measure stored checkpoints again and compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lsqctl.cli import completing
from lsqctl.cli.render import print_error, print_json, print_table, say
from lsqctl.cli.state import Json, positive_int, get_settings, open_store
from lsqctl.errors import UsageError

if TYPE_CHECKING:
    from lsqctl.api.verify import Verdict

OptionalRuns = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN]...",
        help="Ids, unique prefixes, names, or @last.",
        autocompletion=completing.runs,
    ),
]
_VERIFIED_TEXTS = {True: "verified", False: "NOT verified", None: "not tried"}


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command(epilog="Example: lsqctl verify @last")(verify)


def verify(
    ctx: typer.Context,
    run_refs: OptionalRuns = None,
    all_succeeded: Annotated[bool, typer.Option("--all", help="Every succeeded run.")] = False,
    sweep: Annotated[
        str | None, typer.Option(metavar="NAME", help="Every succeeded cell of this sweep.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(parser=positive_int, metavar="N", help="Default: as many as in the training."),
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

    if not (run_refs or all_succeeded or sweep):
        raise UsageError("name a run, or use --all or --sweep NAME")
    verdicts: list[Verdict] = []
    with open_store(ctx) as store:
        for run in api.runs_to_verify(store, run_refs or (), sweep=sweep, all_succeeded=all_succeeded):
            run_verdicts = api.verify_run(store, get_settings(ctx), run.id, threads=threads, device=device)
            for verdict in run_verdicts:
                verdicts.append(verdict)
                if verdict.message:
                    print_error(f"{verdict.run_id} {_result_label(verdict)}: {verdict.message}")
    if json:
        print_json({"results": verdicts})
    else:
        _print_verdicts(verdicts)
    if any(not result.verified for result in verdicts):
        raise typer.Exit(1)


def _print_verdicts(verdicts: list[Verdict]) -> None:
    if not verdicts:
        say("no finished run to verify yet; `lsqctl worker --until-empty` works the queue")
        return
    print_table(
        ("id", "run", "result", "stored", "measured", "verdict"),
        [
            (
                verdict.run_id,
                verdict.name,
                _result_label(verdict),
                f"{verdict.n_correct}/{verdict.n_total}",
                "" if verdict.measured is None else f"{verdict.measured}/{verdict.n_total}",
                _VERIFIED_TEXTS[verdict.verified],
            )
            for verdict in verdicts
        ],
        right_aligned=("stored", "measured"),
        styles={"verified": "green", "NOT verified": "red", "not tried": "yellow"},
    )
    n_verified = sum(verdict.verified is True for verdict in verdicts)
    say(f"{n_verified} of {len(verdicts)} results verified")


def _result_label(verdict: Verdict) -> str:
    return verdict.selection if verdict.variant == "raw" else f"{verdict.variant} {verdict.selection}"
