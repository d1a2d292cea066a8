"""`conformance`: the paper's golden values against our quantizer and others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from lsqctl.cli.render import note, print_json, print_table, say
from lsqctl.cli.state import Json

if TYPE_CHECKING:
    from lsqctl.api.conformance import ConformanceMatrix

_ANSWER_STYLES = {"ok": "green", "differs": "red", "n/a": "dim", "not installed": "dim"}


def register_conformance(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command(epilog="Example: lsqctl conformance")(conformance)


def conformance(json: Json = False) -> None:
    """Ask our quantizer, and others, what the LSQ paper answers; exit 1 unless ours is right.

    docs/conformance.md says what each row asks.
    """
    from lsqctl.api.conformance import conformance_matrix

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
        f"{implementation.name} {implementation.version}".rstrip() + " {} of {}".format(*matrix.counts(implementation.name))
        for implementation in matrix.implementations
        if not implementation.skip_reason
    )
    say(f"right answers: {', '.join(scores)}")


def _answer_text(verdict: str) -> str:
    return "n/a" if verdict == "not applicable" else verdict


def _first_detail(details: tuple[str, ...]) -> str:
    more = f" (+{len(details) - 1})" if len(details) > 1 else ""
    return details[0] + more
