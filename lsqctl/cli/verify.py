"""`verify` measures results again; `conformance` asks for the paper's values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lsqctl.cli import completion
from lsqctl.cli.console import note, print_error, print_json, print_table, say
from lsqctl.cli.options import Json, get_settings, open_store, positive_int
from lsqctl.errors import UsageError
from lsqctl.text import pluralize

if TYPE_CHECKING:
    from lsqctl.services.conformance import ConformanceMatrix
    from lsqctl.services.verify import Verdict

OptionalRuns = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN]...",
        help="Ids, unique prefixes, names, or @last.",
        autocompletion=completion.runs,
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
    """Evaluate results again, from their hash-checked checkpoints.

    Exit 1 unless all are equal.

    The board then says `verified`, or that the verification failed. Of a recorded run the bytes of
    its checkpoint are checked: that is no verification, and fails only where the run is named.
    """
    from lsqctl.services import verify as api

    if not (run_refs or all_succeeded or sweep):
        raise UsageError("name a run, or use --all or --sweep NAME")
    verdicts: list[Verdict] = []
    with open_store(ctx) as store:
        runs = api.runs_to_verify(store, run_refs or (), sweep=sweep, all_succeeded=all_succeeded)
        for run in runs:
            verified = api.verify_run(
                store, get_settings(ctx), run.id, threads=threads, device=device
            )
            for verdict in verified:
                verdicts.append(verdict)
                _print_message(verdict)
    if json:
        print_json({"results": verdicts})
    else:
        _print_verdicts(verdicts)
    named = not (all_succeeded or sweep)
    if any(_is_failure(verdict, named=named) for verdict in verdicts):
        raise typer.Exit(1)


def _is_failure(verdict: Verdict, *, named: bool) -> bool:
    """Return whether a verdict ends the command with 1: a recorded run is tried only if named."""
    untried_counts = named or not verdict.recorded
    return verdict.verified is False or (verdict.verified is None and untried_counts)


def _print_message(verdict: Verdict) -> None:
    if verdict.message:
        print_error(f"{verdict.run_id} {_result_label(verdict)}: {verdict.message}")


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
        hide_first=("result", "measured", "stored"),
        names=("run",),
        styles={"verified": "green", "NOT verified": "red", "not tried": "yellow"},
    )
    n_verified = sum(verdict.verified is True for verdict in verdicts)
    recorded = [v for v in verdicts if v.recorded and v.verified is None]
    tried = len(verdicts) - len(recorded)
    apart = f"; {pluralize(len(recorded), 'recorded run')} cannot be" if recorded else ""
    say(f"{n_verified} of {tried} results verified{apart}")


def _result_label(verdict: Verdict) -> str:
    return (
        verdict.selection if verdict.variant == "raw" else f"{verdict.variant} {verdict.selection}"
    )


_ANSWER_STYLES = {"ok": "green", "differs": "red", "n/a": "dim", "not installed": "dim"}


def register_conformance(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command(epilog="Example: lsqctl conformance")(conformance)


def conformance(json: Json = False) -> None:
    """Compare quantizers with values of the LSQ paper.

    lsqctl's own, and others; exit 1 if lsqctl's is wrong.

    docs/conformance.md says what each row asks.
    """
    from lsqctl.services.conformance import conformance_matrix

    matrix = conformance_matrix()
    if json:
        print_json(
            {
                "conforms": matrix.conforms,
                "implementations": matrix.implementations,
                "checks": matrix.rows,
            }
        )
    else:
        _print_matrix(matrix)
    if not matrix.conforms:
        raise typer.Exit(1)


def _print_matrix(matrix: ConformanceMatrix) -> None:
    names = [implementation.name for implementation in matrix.implementations]
    print_table(
        ("check", "paper", *names),
        [
            (row.title, row.source, *(_answer_text(row.answers[name].verdict) for name in names))
            for row in matrix.rows
        ],
        hide_first=("paper",),
        styles=_ANSWER_STYLES,
    )
    differences = [
        (name, row.title, _first_detail(row.answers[name].details))
        for name in names
        for row in matrix.rows
        if row.answers[name].details
    ]
    if differences:
        print()
        print_table(("who", "differs in", "how"), differences)
    for implementation in matrix.implementations:
        if implementation.skip_reason:
            note(f"{implementation.name}: {implementation.skip_reason}")
    scores = (
        f"{implementation.name} {implementation.version}".rstrip()
        + " {} of {}".format(*matrix.counts(implementation.name))
        for implementation in matrix.implementations
        if not implementation.skip_reason
    )
    say(f"right answers: {', '.join(scores)}")


def _answer_text(verdict: str) -> str:
    return "n/a" if verdict == "not applicable" else verdict


def _first_detail(details: tuple[str, ...]) -> str:
    more = f" (+{len(details) - 1})" if len(details) > 1 else ""
    return details[0] + more
