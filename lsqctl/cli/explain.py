"""`explain`: what a code such as R101 means, and an example of it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lsqctl.cli import completing
from lsqctl.cli.render import print_json, print_table
from lsqctl.cli.state import Json
from lsqctl.errors import NotFound, did_you_mean

CodeArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="CODE",
        help="R…: a recipe, F…: a filter, W…: a warning.",
        autocompletion=completing.codes,
    ),
]


def register(app: typer.Typer) -> None:
    """Add `explain` to the top level."""
    app.command(epilog="Example: lsqctl explain R101")(explain)


def explain(code: CodeArgument = None, json: Json = False) -> None:
    """Say what the code of an error or a warning means; without one, list them."""
    from lsqctl.recipe_file.codes import CODES

    wanted = list(CODES) if code is None else [code.strip("[]").upper()]
    if unknown := [one for one in wanted if one not in CODES]:
        raise NotFound(
            f"no error has the code `{unknown[0]}`{did_you_mean(unknown[0], CODES)}; "
            f"known: {', '.join(CODES)}"
        )
    if json:
        print_json({"codes": [{"code": one, **CODES[one]._asdict()} for one in wanted]})
    elif code is None:
        print_table(("code", "title"), [(one, CODES[one].title) for one in wanted])
    else:
        entry = CODES[wanted[0]]
        shown = "".join(f"    {line}\n" for line in entry.example.splitlines())
        sys.stdout.write(f"{wanted[0]}: {entry.title}\n\n{entry.explanation}\n\n{shown}")
